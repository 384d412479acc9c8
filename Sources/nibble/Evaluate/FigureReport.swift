import NibbleCore
import NibbleEvaluation

/// Figures of a task, beside those of the model it is compared with.
struct FigureReport {
  let figures: [Figure]
  /// Of the other model on the same items.
  var others: [Figure] = []
  /// The other model and its adapters.
  var other: [String] = []

  private func other(of figure: Figure) -> Figure? { others.first { $0.key == figure.key } }

  /// Lines for people: value, standard error and the range of 95 %.
  func rows() throws -> [(String, String)] {
    try figures.map { ($0.label, text($0.score.value, $0.score.interval())) }
      + (others.isEmpty ? [] : [("compared to", other.map(oneLine).joined(separator: " + "))])
      + figures.compactMap { figure in
        guard let other = other(of: figure) else { return nil }
        let difference = try figure.score.difference(from: other.score)
        let sign = difference.map { $0.excludesZero ? "" : ", no more than chance" } ?? ""
        return (figure.label, "\(decimal(other.score.value, 5)); difference \(text(figure.score.value - other.score.value, difference))\(sign)")
      }
  }

  private func text(_ value: Double, _ interval: Interval?) -> String {
    guard value.isFinite else { return "none: it is undefined for these items" }
    guard let interval else { return decimal(value, 5) }
    return "\(decimal(value, 5)) ± \(decimal(interval.standardError, 5)), 95 % from \(decimal(interval.low, 5)) to \(decimal(interval.high, 5))"
  }

  /// The same as members of a JSON object.
  func members() throws -> [(key: String, value: JSON)] {
    var members = figures.flatMap { Self.members($0.key, $0.score.value, $0.score.interval()) }
    guard !others.isEmpty else { return members }
    let compared = try figures.flatMap { figure -> [(key: String, value: JSON)] in
      guard let other = other(of: figure) else { return [] }
      return [(figure.key, JSON(other.score.value))]
        + Self.members(figure.key + "_difference", figure.score.value - other.score.value, try figure.score.difference(from: other.score))
    }
    members.append(("compared_to", .object([("model", JSON(other.first)), ("adapters", JSON(Array(other.dropFirst())))] + compared)))
    return members
  }

  private static func members(_ key: String, _ value: Double, _ interval: Interval?) -> [(key: String, value: JSON)] {
    guard let interval else { return [(key, JSON(value))] }
    return [
      (key, JSON(value)), (key + "_standard_error", JSON(interval.standardError)),
      (key + "_interval", .array([JSON(interval.low), JSON(interval.high)])),
    ]
  }
}
