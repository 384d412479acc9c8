import NibbleCore
import NibblePlots

/// A curve of losses as an SVG picture, for pages of any colour: it brings its own ground, light or dark as the reader's system is.
public struct LossCurve {
  private let losses: [Double]
  private let smoothed: [Double]
  private let validation: [(step: Int, loss: Double)]
  private let x: ClosedRange<Double>
  private let y: ClosedRange<Double>

  private static let (width, height) = (760.0, 440.0)
  private static let (left, right, top, bottom) = (76.0, 28.0, 92.0, 54.0)
  /// Steps up to which each has a dot.
  private static let dots = 40

  /// - Parameters:
  ///   - losses: of each step; NaN where nothing was learned, which is left out
  ///   - validation: steps, 0 before the first, and the losses after them
  /// - Returns: an empty text where there is nothing to draw
  public static func svg(_ losses: [Double], validation: [(step: Int, loss: Double)] = []) -> String {
    guard let curve = LossCurve(losses, validation.filter { $0.loss.isFinite }) else { return "" }
    return curve.text
  }

  private init?(_ losses: [Double], _ validation: [(step: Int, loss: Double)]) {
    (self.losses, self.validation) = (losses, validation)
    var mean = ExponentialMean()
    smoothed = losses.map { loss in
      mean.add(loss)
      return mean.value
    }
    let finite = losses.filter(\.isFinite)
    guard let y = Self.range(finite, validation.map(\.loss)) else { return nil }
    self.y = y
    let steps = [1, losses.count] + validation.map(\.step)
    let (first, last) = (Double(steps.min() ?? 1), Double(steps.max() ?? 1))
    x = first < last ? first...last : first - 0.5...last + 0.5
  }

  /// What is shown of the losses: all of them, but for spikes that would flatten everything else.
  private static func range(_ losses: [Double], _ validation: [Double]) -> ClosedRange<Double>? {
    let sorted = losses.sorted()
    guard var least = (sorted + validation).min(), var most = (sorted + validation).max() else { return nil }
    if sorted.count >= 10 {
      let (low, high) = (sorted[sorted.count / 50], sorted[sorted.count - 1 - max(1, sorted.count / 50)])
      let limit = max(high + 1.5 * (high - low), validation.max() ?? high)
      most = min(most, limit)
    }
    let room = most > least ? (most - least) * 0.06 : most == 0 ? 0.05 : abs(most) * 0.1
    (least, most) = (least >= 0 ? max(0, least - room) : least - room, most + room)
    return least...most
  }

  private func place(_ step: Double, _ loss: Double) -> (x: Double, y: Double) {
    let across = (step - x.lowerBound) / (x.upperBound - x.lowerBound), up = (loss - y.lowerBound) / (y.upperBound - y.lowerBound)
    return (
      Self.left + across * (Self.width - Self.left - Self.right), Self.height - Self.bottom - up * (Self.height - Self.top - Self.bottom)
    )
  }

  private var text: String {
    ([Self.opening] + axes + heading + ["<g clip-path=\"url(#plot)\">"] + series + ["</g>"] + marks + ["</svg>"]).joined(separator: "\n") + "\n"
  }

  // Okabe and Ito's blue and vermilion, which people with any kind of colour vision tell apart; lighter on dark ground.
  private static let opening = """
    <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Int(width)) \(Int(height))" width="\(Int(width))" height="\(Int(height))" \
    font-family="system-ui, 'Helvetica Neue', Arial, sans-serif" font-size="12" role="img">
    <style>
    .ground { fill: #ffffff; stroke: #d0d5da } .grid { stroke: #e4e7eb } .axis { stroke: #8a929a } text { fill: #4a5259 } .title { fill: #1b2126 }
    .step { stroke: #9fb8cc; fill: none } .step-dot { fill: #9fb8cc } .smooth { stroke: #0072b2; fill: none } .valid { stroke: #d55e00; fill: none }
    .valid-dot { fill: #d55e00; stroke: #ffffff } .spike { fill: #6b747c }
    @media (prefers-color-scheme: dark) {
    .ground { fill: #16191c; stroke: #33393f } .grid { stroke: #2a2f34 } .axis { stroke: #6b747c } text { fill: #b4bcc4 } .title { fill: #f0f3f5 }
    .step { stroke: #4d6478 } .step-dot { fill: #4d6478 } .smooth { stroke: #56b4e9 } .valid { stroke: #f08a4b }
    .valid-dot { fill: #f08a4b; stroke: #16191c } .spike { fill: #8a929a }
    }
    </style>
    <title>Training loss</title>
    <clipPath id="plot"><rect x="\(left - 6)" y="\(top)" width="\(width - left - right + 12)" height="\(height - top - bottom + 4)"/></clipPath>
    <rect class="ground" x="0.5" y="0.5" width="\(width - 1)" height="\(height - 1)" rx="8"/>
    """

  // MARK: Axes

  private var axes: [String] {
    let (rows, columns) = (AxisTicks(y, count: 6), AxisTicks(x, count: 8, onlyWhole: true))
    let (floor, side) = (Self.height - Self.bottom, Self.width - Self.right)
    var parts: [String] = []
    for value in rows.values {
      let at = place(x.lowerBound, value).y
      parts.append(SVG.line((Self.left, at), (side, at), "grid"))
      parts.append(SVG.text(rows.text(value), Self.left - 9, at + 4, "text-anchor=\"end\""))
    }
    for value in columns.values {
      let at = place(value, y.lowerBound).x
      parts.append(SVG.line((at, Self.top), (at, floor), "grid"))
      parts.append(SVG.line((at, floor), (at, floor + 5), "axis"))
      parts.append(SVG.text(columns.text(value), at, floor + 19, "text-anchor=\"middle\""))
    }
    let middle = (Self.top + floor) / 2
    return parts + [
      SVG.line((Self.left, floor), (side, floor), "axis"),
      SVG.text("step", (Self.left + side) / 2, Self.height - 14, "text-anchor=\"middle\""),
      SVG.text("loss", 20, middle, "text-anchor=\"middle\" transform=\"rotate(-90 20 \(SVG.number(middle)))\""),
    ]
  }

  // MARK: Title and legend

  private var heading: [String] {
    func figure(_ loss: Double) -> String { abs(loss) < 0.01 ? AxisTicks.general(loss, 3) : decimal(loss, 3) }
    var facts = ["\(losses.count) step\(losses.count == 1 ? "" : "s")"]
    if let last = smoothed.last { facts.append("smoothed \(figure(last)) at the end") }
    if let first = validation.first, let last = validation.last {
      facts.append("validation " + (validation.count > 1 ? "\(figure(first.loss)) → " : "") + figure(last.loss))
    }
    var parts = [
      SVG.text("Training loss", Self.left, 32, "class=\"title\" font-size=\"17\" font-weight=\"600\""),
      SVG.text(facts.joined(separator: "  ·  "), Self.left, 53),
    ]
    var entries = [("each step", "step", 1.5)]
    if losses.count > 1 { entries.append(("smoothed", "smooth", 2.5)) }
    if !validation.isEmpty { entries.append(("validation", "valid", 2)) }
    var end = Self.width - Self.right
    for (name, style, width) in entries.reversed() {
      let start = end - Double(name.count) * 7 - 30
      parts.append(
        "<line x1=\"\(SVG.number(start))\" y1=\"28\" x2=\"\(SVG.number(start + 22))\" y2=\"28\" class=\"\(style)\" stroke-width=\"\(width)\"/>")
      if style == "valid" { parts.append(dot((start + 11, 28))) }
      parts.append(SVG.text(name, start + 28, 32))
      end = start - 16
    }
    return parts
  }

  private func dot(_ at: (x: Double, y: Double)) -> String {
    "<circle cx=\"\(SVG.number(at.x))\" cy=\"\(SVG.number(at.y))\" r=\"4\" class=\"valid-dot\" stroke-width=\"1.5\"/>"
  }

  // MARK: Curves

  private var series: [String] {
    func curve(_ points: [(x: Double, y: Double)], _ style: String) -> String {
      let text = points.map { "\(SVG.number($0.x)),\(SVG.number($0.y))" }.joined(separator: " ")
      return "<polyline \(style) stroke-linejoin=\"round\" stroke-linecap=\"round\" points=\"\(text)\"/>"
    }
    var parts = [curve(thinned(losses), "class=\"step\" stroke-width=\"1\"")]
    if losses.count <= Self.dots {
      parts += losses.enumerated().filter { !$1.isNaN }.map { index, loss in
        let at = place(Double(index + 1), loss)
        return "<circle cx=\"\(SVG.number(at.x))\" cy=\"\(SVG.number(at.y))\" r=\"2.5\" class=\"step-dot\"/>"
      }
    }
    if losses.count > 1 { parts.append(curve(thinned(smoothed), "class=\"smooth\" stroke-width=\"2.5\"")) }
    if validation.count > 1 {
      parts.append(curve(validation.map { place(Double($0.step), $0.loss) }, "class=\"valid\" stroke-width=\"2\""))
    }
    return parts
  }

  /// At most two points for each unit of width, the least and the greatest: spikes stay.
  private func thinned(_ values: [Double]) -> [(x: Double, y: Double)] {
    let columns = Int(Self.width - Self.left - Self.right)
    let points = values.enumerated().filter { !$1.isNaN }.map { place(Double($0 + 1), $1) }
    guard points.count > 2 * columns else { return points }
    return (0..<columns).flatMap { column in
      let range = column * points.count / columns..<(column + 1) * points.count / columns
      let (least, most) = (range.min { points[$0].y < points[$1].y }, range.max { points[$0].y < points[$1].y })
      return Set([least, most].compactMap { $0 }).sorted().map { points[$0] }
    }
  }

  /// What lies on the edge of the plot or on the curves: validation points, and triangles where steps are above it.
  private var marks: [String] {
    var parts = validation.count <= 100 ? validation.map { dot(place(Double($0.step), $0.loss)) } : []
    let above = losses.indices.filter { losses[$0] > y.upperBound }
    for index in above.prefix(200) {
      let at = place(Double(index + 1), y.upperBound)
      let points = [(at.x - 4.5, at.y + 1), (at.x + 4.5, at.y + 1), (at.x, at.y - 7)].map { "\(SVG.number($0.0)),\(SVG.number($0.1))" }
      parts.append("<polygon class=\"spike\" points=\"\(points.joined(separator: " "))\"/>")
    }
    if let greatest = above.max(by: { losses[$0] < losses[$1] }) {
      let text = decimal(losses[greatest], losses[greatest] < 1000 ? 2 : 0)
      let at = min(max(place(Double(greatest + 1), 0).x, Self.left + 20), Self.width - Self.right - 20)
      parts.append(SVG.text(text, at, Self.top - 12, "text-anchor=\"middle\" font-size=\"11\""))
    }
    return parts
  }
}
