import NibbleCore

/// The order of rows: each row once an epoch, shuffled anew each time, or in file order.
package struct RowOrder {
  private let count: Int
  private let seed: UInt64?
  private let grouping: Grouping?
  private var epoch = -1
  private var order: [Int] = []

  /// Micro-batches of rows of similar length.
  package struct Grouping {
    /// Of each row.
    let lengths: [Int]
    /// Rows of a micro-batch.
    let batch: Int
    /// Micro-batches that are sorted together: enough that lengths are similar, few enough that the order stays random.
    static let window = 50

    package init(lengths: [Int], batch: Int) { (self.lengths, self.batch) = (lengths, batch) }
  }

  /// - Parameter seed: nil for the order of the file, which is not grouped
  package init(_ count: Int, seed: UInt64?, grouping: Grouping? = nil) {
    (self.count, self.seed, self.grouping) = (count, seed, grouping)
  }

  /// The row at position `index` of the whole run.
  package mutating func row(_ index: Int) -> Int {
    let (own, at) = index.quotientAndRemainder(dividingBy: count)
    guard let seed else { return at }
    if own != epoch {
      epoch = own
      let random = CountedRandom(seed: seed, stream: UInt64(own))
      order = Array(0..<count)
      Self.shuffle(&order, random, draws: 0)
      if let grouping { group(grouping, random) }
    }
    return order[at]
  }

  private static func shuffle<Element>(_ list: inout [Element], _ random: CountedRandom, draws first: Int) {
    for place in stride(from: list.count - 1, to: 0, by: -1) {
      list.swapAt(place, Int(random.uniform(UInt64(first + place)) * Double(place + 1)))
    }
  }

  /// Sorts windows of the shuffled rows by length, and shuffles the micro-batches that come of it. A micro-batch that an epoch's
  /// end divides stays where it is.
  private mutating func group(_ grouping: Grouping, _ random: CountedRandom) {
    let window = grouping.batch * Grouping.window
    for first in stride(from: 0, to: count, by: window) {
      let range = first..<min(first + window, count)
      order.replaceSubrange(range, with: order[range].sorted { (grouping.lengths[$0], $0) < (grouping.lengths[$1], $1) })
    }
    let begun = epoch * count % grouping.batch
    let lead = min(count, (grouping.batch - begun) % grouping.batch)
    let whole = (count - lead) / grouping.batch
    var batches = (0..<whole).map { Array(order[lead + $0 * grouping.batch..<lead + ($0 + 1) * grouping.batch]) }
    Self.shuffle(&batches, random, draws: count)
    order.replaceSubrange(lead..<lead + whole * grouping.batch, with: batches.joined())
  }
}
