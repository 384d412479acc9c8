import NibbleCore

/// A figure with its standard error, and the range that would hold the true value in 95 of 100 such experiments.
///
/// The true value is what the figure would be over ever more items (or seeds) of the same kind.
public struct Interval: Sendable, Equatable {
  /// Where an interval comes from.
  public enum Source: String, Sendable {
    /// Student's t over independent numbers: items whose mean is the figure, or seeds.
    case studentT = "t"
    /// Quantiles of the figure over items drawn again with replacement (Efron, 1979).
    case bootstrap
  }

  public let value: Double
  public let standardError: Double
  public let low: Double
  public let high: Double
  public let source: Source

  init(_ value: Double, standardError: Double, _ low: Double, _ high: Double, _ source: Source) {
    (self.value, self.standardError, self.low, self.high, self.source) = (value, standardError, low, high, source)
  }

  /// Of the mean of independent numbers, such as a figure over a few seeds: its standard error is their deviation (divided by
  /// count - 1) over the root of their count, and the range is Student's t with count - 1 degrees of freedom.
  ///
  /// - Returns: nil for fewer than two numbers, or where one is no finite number
  public init?(meanOf values: [Double]) {
    guard values.count > 1, values.allSatisfy(\.isFinite) else { return nil }
    let count = Double(values.count)
    let mean = values.reduce(0, +) / count
    let error = (values.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / (count - 1) / count).squareRoot()
    let reach = error == 0 ? 0 : StudentT.quantile(0.975, freedom: count - 1) * error
    self.init(mean, standardError: error, mean - reach, mean + reach, .studentT)
  }

  /// Whether the range leaves 0 out: for a difference, whether it is more than chance.
  public var excludesZero: Bool { low > 0 || high < 0 }
}
