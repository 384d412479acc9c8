import Glibc
import NibbleCore

/// Lines over a numeric axis, with bars of error where points have bounds.
public struct LineChart: Sendable {
  /// A point of a line.
  public struct Point: Sendable {
    public let x: Double
    public let y: Double
    /// What an interval spans; nil for a point without one.
    public let bounds: ClosedRange<Double>?

    public init(_ x: Double, _ y: Double, bounds: ClosedRange<Double>? = nil) { (self.x, self.y, self.bounds) = (x, y, bounds) }
  }

  /// A line with its name in the legend.
  public struct Series: Sendable {
    public let name: String
    public let points: [Point]

    public init(_ name: String, _ points: [Point]) { (self.name, self.points) = (name, points) }
  }

  public let title: String
  public let across: String
  public let up: String
  public let series: [Series]
  /// Whether the numeric axis shows ratios, not differences.
  public let isLogarithmic: Bool
  /// Whether every point has a mark, and its place on the axis is named; otherwise lines are curves.
  public let hasMarks: Bool

  private let x: ClosedRange<Double>
  private let y: ClosedRange<Double>
  private static let height = 340.0

  /// - Returns: nil where there is no finite point
  public init?(_ title: String, across: String, up: String, _ series: [Series], hasMarks: Bool = true) {
    (self.title, self.across, self.up, self.hasMarks) = (title, across, up, hasMarks)
    self.series = series.map { one in
      Series(one.name, one.points.filter { $0.x.isFinite && $0.y.isFinite }.sorted { $0.x < $1.x })
    }
    let points = self.series.flatMap(\.points)
    let places = points.map(\.x)
    guard let first = places.min(), let last = places.max() else { return nil }
    isLogarithmic = hasMarks && Self.arePowers(places)
    if isLogarithmic { x = log2(first)...log2(last) } else { x = first < last ? first...last : first - 0.5...last + 0.5 }
    let heights = points.map(\.y)
    // Means stay in sight however wide an interval of two seeds is.
    let (least, most) = (heights.min() ?? 0, heights.max() ?? 1)
    let reach = max(most - least, abs(most) * 0.02, 1e-9) * 1.5
    let bounds = points.compactMap(\.bounds).flatMap { [max($0.lowerBound, least - reach), min($0.upperBound, most + reach)] }.filter(\.isFinite)
    let all = heights + bounds
    let (bottom, top) = (all.min() ?? 0, all.max() ?? 1)
    let room = top > bottom ? (top - bottom) * 0.07 : top == 0 ? 0.05 : abs(top) * 0.1
    y = (bottom >= 0 ? max(0, bottom - room) : bottom - room)...(top + room)
  }

  /// Whether numbers go by factors rather than by steps: positive, over more than a factor of four, and closer to even by ratio.
  private static func arePowers(_ values: [Double]) -> Bool {
    let sorted = Set(values).sorted()
    guard sorted.count > 2, let first = sorted.first, let last = sorted.last, first > 0, last / first > 4 else { return false }
    func spread(_ steps: [Double]) -> Double { (steps.max() ?? 0) / max(steps.min() ?? 0, 1e-300) }
    return spread(zip(sorted, sorted.dropFirst()).map { log($1 / $0) }) < spread(zip(sorted, sorted.dropFirst()).map { $1 - $0 })
  }

  /// The picture, on a ground of its own, light or dark as the reader's system is.
  public var svg: String {
    let heading = ChartStyle.heading(title, series.map(\.name), hasMarks: hasMarks)
    let height = Self.height + max(0, heading.end - 70)
    let rows = AxisTicks(y, count: 5)
    let labels = rows.values.map { rows.text($0) }
    let left = 40 + (labels.map { SVG.width($0, ChartStyle.size) }.max() ?? 0), right = ChartStyle.width - 20
    let (top, floor) = (heading.end + 6, height - 52)
    let inset = hasMarks ? 14.0 : 0
    func place(_ across: Double, _ up: Double) -> (x: Double, y: Double) {
      let at = isLogarithmic ? log2(max(across, 1e-300)) : across
      let share = x.upperBound > x.lowerBound ? (at - x.lowerBound) / (x.upperBound - x.lowerBound) : 0.5
      return (left + inset + share * (right - left - 2 * inset), floor - (up - y.lowerBound) / (y.upperBound - y.lowerBound) * (floor - top))
    }
    var parts = [ChartStyle.opening(title, height: height)] + heading.parts
    for (value, label) in zip(rows.values, labels) {
      let at = place(x.lowerBound, value).y
      parts += [SVG.line((left, at), (right, at), "grid"), SVG.text(label, left - 8, at + 4.5, "text-anchor=\"end\"")]
    }
    var end = -Double.infinity
    for (value, label) in columns {
      let at = place(value, y.lowerBound).x, half = SVG.width(label, ChartStyle.size) / 2
      parts.append(SVG.line((at, floor), (at, floor + 5), "axis"))
      guard at - half > end + 6 else { continue }
      parts.append(SVG.text(label, at, floor + 20, "text-anchor=\"middle\""))
      end = at + half
    }
    let middle = (top + floor) / 2
    parts += [
      SVG.line((left, floor), (right, floor), "axis"),
      SVG.text(SVG.fitted(across, ChartStyle.size, room: right - left), (left + right) / 2, height - 12, "text-anchor=\"middle\""),
      SVG.text(SVG.fitted(up, ChartStyle.size, room: floor - top), 18, middle, "text-anchor=\"middle\" transform=\"rotate(-90 18 \(SVG.number(middle)))\""),
    ]
    for (number, one) in series.enumerated() { parts += drawing(number, one, place, top...floor) }
    return (parts + ["</svg>"]).joined(separator: "\n") + "\n"
  }

  private var columns: [(Double, String)] {
    let values = Set(series.flatMap(\.points).map(\.x)).sorted()
    if hasMarks, isLogarithmic || values.count <= 8 { return values.map { ($0, Self.text($0)) } }
    let ticks = AxisTicks(x, count: 6, onlyWhole: !hasMarks)
    return ticks.values.map { ($0, ticks.text($0)) }
  }

  static func text(_ value: Double) -> String {
    value == value.rounded() && abs(value) < 1e6 ? "\(Int(value))" : AxisTicks.general(value, 4)
  }

  private func drawing(_ number: Int, _ one: Series, _ place: (Double, Double) -> (x: Double, y: Double), _ height: ClosedRange<Double>) -> [String] {
    // Whiskers of several lines at one place stand side by side.
    let shift = series.count > 1 && hasMarks ? (Double(number) - Double(series.count - 1) / 2) * min(3, 14 / Double(series.count)) : 0
    var parts: [String] = []
    func at(_ point: Point, _ up: Double) -> (x: Double, y: Double) {
      let found = place(point.x, up)
      return (found.x + shift, min(max(found.y, height.lowerBound), height.upperBound))
    }
    if one.points.count > 1 {
      let style = "class=\"s\(number % ChartStyle.colours)\" stroke-width=\"\(hasMarks ? 2 : 1.6)\"" + (hasMarks ? ChartStyle.dash(number) : "")
      parts.append(SVG.polyline(thinned(one.points.map { at($0, $0.y) }), style))
    }
    guard hasMarks || one.points.count <= 40 else { return parts }
    for point in one.points {
      if let bounds = point.bounds {
        let ends = [bounds.lowerBound, bounds.upperBound].map { end in
          let found = at(point, end)
          return (x: found.x, y: found.y, hasCap: y.contains(end))
        }
        parts.append(ChartStyle.whisker(number, ends, isUpright: true))
      }
      let center = at(point, point.y)
      parts.append(ChartStyle.mark(number, center.x, center.y))
    }
    return parts
  }

  /// At most two points for each unit of width: the least and the greatest, so that spikes stay.
  private func thinned(_ points: [(x: Double, y: Double)]) -> [(x: Double, y: Double)] {
    let columns = Int(ChartStyle.width)
    guard points.count > 2 * columns else { return points }
    return (0..<columns).flatMap { column in
      let range = column * points.count / columns..<(column + 1) * points.count / columns
      let (least, most) = (range.min { points[$0].y < points[$1].y }, range.max { points[$0].y < points[$1].y })
      return Set([least, most].compactMap { $0 }).sorted().map { points[$0] }
    }
  }
}
