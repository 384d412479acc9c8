/// What charts have in common: a size that suits a column of a paper and a phone, and colours that people with any kind of colour vision tell apart
/// (Okabe and Ito's), on light and on dark ground.
enum ChartStyle {
  static let width = 480.0
  static let size = 14.0
  /// Series that a reader can distinguish.
  static let colours = 8

  private static let light = ["#0072b2", "#d55e00", "#009e73", "#aa4499", "#b07d00", "#56b4e9", "#4a5259", "#8c564b"]
  private static let dark = ["#56b4e9", "#f08a4b", "#2fc79a", "#d98cc4", "#e6b422", "#a6d8f5", "#b4bcc4", "#c99a8e"]
  /// Lines that cross stay distinct in print, too.
  private static let dashes = ["", "7 4", "2 4", "9 3 2 3", "", "7 4", "2 4", "9 3 2 3"]

  static func opening(_ title: String, height: Double) -> String {
    func rules(_ colours: [String]) -> String {
      colours.enumerated().map { ".s\($0) { stroke: \($1) } .f\($0) { fill: \($1); stroke: \($1) }" }.joined(separator: " ")
    }
    return """
      <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Int(width)) \(Int(height))" width="\(Int(width))" height="\(Int(height))" \
      font-family="system-ui, 'Helvetica Neue', Arial, sans-serif" font-size="\(Int(size))" role="img">
      <style>
      .ground { fill: #ffffff } .grid { stroke: #e4e7eb } .axis { stroke: #8a929a } text { fill: #3a4248 } .title { fill: #1b2126 }
      \(rules(light))
      @media (prefers-color-scheme: dark) {
      .ground { fill: #16191c } .grid { stroke: #2a2f34 } .axis { stroke: #6b747c } text { fill: #c3cad1 } .title { fill: #f0f3f5 }
      \(rules(dark))
      }
      </style>
      <title>\(SVG.escaped(title))</title>
      <rect class="ground" x="0" y="0" width="\(Int(width))" height="\(Int(height))"/>
      """
  }

  static func dash(_ series: Int) -> String {
    let pattern = dashes[series % dashes.count]
    return pattern.isEmpty ? "" : " stroke-dasharray=\"\(pattern)\""
  }

  /// The mark of a series: a circle, square, triangle or diamond.
  static func mark(_ series: Int, _ x: Double, _ y: Double) -> String {
    let (style, n) = ("class=\"f\(series % colours)\"", SVG.number)
    func polygon(_ points: [(Double, Double)]) -> String {
      "<polygon \(style) points=\"\(points.map { "\(n(x + $0.0)),\(n(y + $0.1))" }.joined(separator: " "))\"/>"
    }
    switch series % 4 {
    case 0: return "<circle \(style) cx=\"\(n(x))\" cy=\"\(n(y))\" r=\"3.6\"/>"
    case 1: return polygon([(-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)])
    case 2: return polygon([(-4.2, 3.4), (4.2, 3.4), (0, -4.4)])
    default: return polygon([(-4.4, 0), (0, -4.6), (4.4, 0), (0, 4.6)])
    }
  }

  /// A bar of error from one place to another, straight up or across. An end without a cap lies outside the picture.
  static func whisker(_ series: Int, _ ends: [(x: Double, y: Double, hasCap: Bool)], isUpright: Bool) -> String {
    let style = "s\(series % colours)"
    let (x, y) = isUpright ? (4.0, 0.0) : (0.0, 4.0)
    let caps = ends.filter(\.hasCap).map { SVG.line(($0.x - x, $0.y - y), ($0.x + x, $0.y + y), style) }
    guard let first = ends.first, let last = ends.last else { return "" }
    return SVG.line((first.x, first.y), (last.x, last.y), style) + caps.joined()
  }

  /// Bold letters of a title are wider than those that `SVG.width` knows.
  private static let bold = 17.5

  /// Lines of a title that fit the width.
  static func titleLines(_ title: String) -> [String] {
    var lines: [String] = []
    for word in title.split(separator: " ").map(String.init) {
      if let last = lines.last, SVG.width(last + " " + word, bold) <= width - 32 { lines[lines.count - 1] = last + " " + word } else { lines.append(word) }
    }
    return lines.prefix(3).map { SVG.fitted($0, bold, room: width - 32) }
  }

  /// Title and legend from the top.
  ///
  /// - Parameter hasMarks: whether series are lines with marks, or bars
  /// - Returns: the pieces, and where they end
  static func heading(_ title: String, _ legend: [String], hasMarks: Bool) -> (parts: [String], end: Double) {
    var (parts, y): ([String], Double) = ([], 10)
    for line in titleLines(title) {
      y += 20
      parts.append(SVG.text(line, 16, y, "class=\"title\" font-size=\"16\" font-weight=\"600\""))
    }
    guard legend.count > 1 || legend.first?.isEmpty == false else { return (parts, y + 12) }
    var x = 16.0
    y += 22
    for (series, name) in legend.enumerated() {
      let name = SVG.fitted(name, size, room: width - 70)
      let room = 28 + SVG.width(name, size) + 18
      if x > 16, x + room > width - 8 { (x, y) = (16, y + 20) }
      if hasMarks {
        parts.append("<line x1=\"\(SVG.number(x))\" y1=\"\(SVG.number(y - 4.5))\" x2=\"\(SVG.number(x + 22))\" y2=\"\(SVG.number(y - 4.5))\" class=\"s\(series % colours)\" stroke-width=\"2\"\(dash(series))/>")
        parts.append(mark(series, x + 11, y - 4.5))
      } else {
        parts.append("<rect x=\"\(SVG.number(x + 5))\" y=\"\(SVG.number(y - 10))\" width=\"12\" height=\"11\" class=\"f\(series % colours)\"/>")
      }
      parts.append(SVG.text(name, x + 28, y))
      x += room
    }
    return (parts, y + 14)
  }
}
