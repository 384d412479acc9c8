import Glibc

/// A mean that forgets: each value counts 0.9 times as much as the one after it.
///
/// The weights of the values so far are divided by their sum, so the mean has no bias towards 0 or the first value (Kingma and Ba 2015, section 3).
package struct ExponentialMean: Sendable {
  private static let decay = 0.9
  private var sum = 0.0
  private var count = 0

  package init() {}

  /// NaN is left out.
  package mutating func add(_ value: Double) {
    guard !value.isNaN else { return }
    sum = Self.decay * sum + (1 - Self.decay) * value
    count += 1
  }

  /// NaN before the first value.
  package var value: Double { count == 0 ? .nan : sum / (1 - pow(Self.decay, Double(count))) }
}
