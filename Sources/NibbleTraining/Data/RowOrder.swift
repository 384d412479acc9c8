import NibbleCore

/// Which rows come when: every epoch each row once, in an order drawn for it, or always in the order of the file.
struct RowOrder {
  private let count: Int
  private let seed: UInt64?
  private var epoch = -1
  private var order: [Int] = []

  /// - Parameter seed: nil for the order of the file
  init(_ count: Int, seed: UInt64?) { (self.count, self.seed) = (count, seed) }

  /// The row at position `index` of the whole run.
  mutating func row(_ index: Int) -> Int {
    let (own, at) = index.quotientAndRemainder(dividingBy: count)
    guard let seed else { return at }
    if own != epoch {
      epoch = own
      order = Array(0..<count)
      let random = CountedRandom(seed: seed, stream: UInt64(own))
      for place in stride(from: count - 1, to: 0, by: -1) {
        order.swapAt(place, Int(random.uniform(UInt64(place)) * Double(place + 1)))
      }
    }
    return order[at]
  }
}
