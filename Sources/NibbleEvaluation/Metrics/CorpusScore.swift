import NibbleCore

/// A figure of a set of items: its value, what each item scores alone, and what its interval is computed from.
///
/// Most figures are functions of sums over the items, so drawing the items again costs no second look at the texts.
public struct CorpusScore: Sendable {
  /// What each item scores by itself; nil where a single item has no such figure.
  public let items: [Double]?
  /// Items there are.
  public let count: Int
  /// The figure of all items; not a number where it is undefined.
  public let value: Double
  /// Whether the figure is the mean of `items`.
  public let isMean: Bool
  /// The figure of the items, each as often as told.
  private let figure: @Sendable (_ times: [Int32]) -> Double

  /// - Parameters:
  ///   - items: what each scores alone
  ///   - figure: of the items, each as often as told; not a number where it is undefined
  public init(items: [Double]?, count: Int, isMean: Bool = false, figure: @escaping @Sendable (_ times: [Int32]) -> Double) {
    (self.items, self.count, self.isMean, self.figure) = (items, count, isMean, figure)
    value = figure(Array(repeating: 1, count: count))
  }

  /// The mean of what items score; not a number for none.
  public init(meanOf items: [Double]) {
    self.init(items: items, count: items.count, isMean: true) { times in
      zip(items, times).reduce(0) { $0 + $1.0 * Double($1.1) } / Double(times.reduce(0, +))
    }
  }

  /// A figure of sums over the items.
  init(items: [Double]?, _ sums: ItemSums, figure: @escaping @Sendable ([Double]) -> Double) {
    self.init(items: items, count: sums.count) { figure(sums.total(times: $0)) }
  }

  /// The figure with its standard error and 95 % interval: by Student's t for a mean of items, else by the bootstrap.
  ///
  /// - Returns: nil for fewer than two items, or a figure that is no number
  public func interval(_ resampling: Resampling = Resampling()) -> Interval? {
    if isMean, let items { return Interval(meanOf: items) }
    return resampling.interval(value, items: count, figure: figure)
  }

  /// How much more this scores than `other` on the same items, with the standard error and 95 % interval of the difference: by
  /// Student's t over the items' differences for means, else by drawing the same items for both.
  ///
  /// - Returns: nil for fewer than two items, or figures that are no numbers
  /// - Throws: `.badInput` if the two are not of equally many items
  public func difference(from other: CorpusScore, _ resampling: Resampling = Resampling()) throws -> Interval? {
    guard count == other.count else {
      throw NibbleError.badInput("\(count) and \(other.count) items: only scores of the same items can be compared pair by pair")
    }
    if isMean, other.isMean, let own = items, let others = other.items { return Interval(meanOf: zip(own, others).map { $0 - $1 }) }
    return resampling.interval(value - other.value, items: count) { figure($0) - other.figure($0) }
  }
}
