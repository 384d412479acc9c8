import NibbleCore

/// Bars from zero, one under another, with bars of error where they have bounds: for things without an order.
public struct BarChart: Sendable {
  /// A bar.
  public struct Bar: Sendable {
    public let value: Double
    /// What an interval spans; nil for a bar without one.
    public let bounds: ClosedRange<Double>?
    /// What stands behind the bar.
    public let label: String

    public init(_ value: Double, bounds: ClosedRange<Double>? = nil, label: String) { (self.value, self.bounds, self.label) = (value, bounds, label) }
  }

  public let title: String
  public let across: String
  /// A name, and a bar for each series; nil where there is none.
  public let rows: [(name: String, bars: [Bar?])]
  /// Names of the bars of a row; one empty name for rows of one bar.
  public let series: [String]

  /// - Returns: nil where there is no finite bar
  public init?(_ title: String, across: String, series: [String] = [""], _ rows: [(name: String, bars: [Bar?])]) {
    (self.title, self.across, self.series) = (title, across, series)
    self.rows = rows.map { ($0.name, $0.bars.map { $0.flatMap { $0.value.isFinite ? $0 : nil } }) }
    guard self.rows.contains(where: { $0.bars.contains { $0 != nil } }) else { return nil }
  }

  /// The picture, on a ground of its own, light or dark as the reader's system is.
  public var svg: String {
    let (size, thick) = (ChartStyle.size, series.count > 1 ? 15.0 : 18.0)
    let heading = ChartStyle.heading(title, series, hasMarks: false)
    let names = rows.map { SVG.fitted($0.name, size, room: 170) }
    let labels = rows.map { $0.bars.map { $0.map { SVG.fitted($0.label, size - 1, room: 130) } ?? "" } }
    let left = 24 + (names.map { SVG.width($0, size) }.max() ?? 0)
    let right = ChartStyle.width - 24 - (labels.joined().map { SVG.width($0, size - 1) }.max() ?? 0)
    let (top, row) = (heading.end + 4, thick * Double(series.count) + 10)
    let floor = top + row * Double(rows.count)
    let height = floor + 52
    let bars = rows.flatMap { $0.bars.compactMap { $0 } }
    let ends = bars.map(\.value) + bars.compactMap(\.bounds).flatMap { [$0.lowerBound, $0.upperBound] }.filter(\.isFinite)
    // Nothing grows out of sight because of an interval that spans the world.
    let (least, most) = (bars.map(\.value).min() ?? 0, bars.map(\.value).max() ?? 1)
    let low = min(0, max(ends.min() ?? 0, least - 2 * max(abs(least), abs(most)))), high = max(0, min(ends.max() ?? 1, 2 * max(abs(least), abs(most))))
    let range = low...(high > low ? high : low + 1)
    func place(_ value: Double) -> Double {
      left + (min(max(value, range.lowerBound), range.upperBound) - range.lowerBound) / (range.upperBound - range.lowerBound) * (right - left)
    }
    var parts = [ChartStyle.opening(title, height: height)] + heading.parts
    let ticks = AxisTicks(range, count: 4)
    for value in ticks.values {
      parts += [SVG.line((place(value), top), (place(value), floor), "grid"), SVG.text(ticks.text(value), place(value), floor + 18, "text-anchor=\"middle\"")]
    }
    for (index, one) in rows.enumerated() {
      let start = top + row * Double(index) + 5
      parts.append(SVG.text(names[index], left - 8, start + thick * Double(series.count) / 2 + 4.5, "text-anchor=\"end\""))
      for (number, bar) in one.bars.enumerated() {
        guard let bar else { continue }
        let (y, a, b) = (start + thick * Double(number), place(min(0, bar.value)), place(max(0, bar.value)))
        parts.append(
          "<rect class=\"f\(number % ChartStyle.colours)\" fill-opacity=\"0.55\" x=\"\(SVG.number(a))\" y=\"\(SVG.number(y + 1.5))\" width=\"\(SVG.number(max(b - a, 0.5)))\" height=\"\(SVG.number(thick - 3))\"/>")
        let middle = y + thick / 2
        if let bounds = bar.bounds {
          let ends = [bounds.lowerBound, bounds.upperBound].map { (x: place($0), y: middle, hasCap: range.contains($0)) }
          parts.append(ChartStyle.whisker(number, ends, isUpright: false))
        }
        let end = max(b, place(bar.bounds?.upperBound ?? bar.value))
        parts.append(SVG.text(labels[index][number], end + 8, middle + 4.5, "font-size=\"\(Int(size - 1))\""))
      }
    }
    parts += [SVG.line((place(0), top), (place(0), floor), "axis"), SVG.text(SVG.fitted(across, size, room: ChartStyle.width - 40), (left + right) / 2, height - 12, "text-anchor=\"middle\"")]
    return (parts + ["</svg>"]).joined(separator: "\n") + "\n"
  }
}
