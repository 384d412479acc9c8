/// Byte pair encoding proper: a word's symbols, merged until no two neighbours have a rank.
///
/// The pair of the lowest rank goes first, the leftmost of equals. Short words are searched from end to end each time;
/// long ones keep their candidates in a heap, so that a megabyte of one letter takes a second and not a day.
struct PairMerging {
  /// A part of the word, as bytes and as a token.
  struct Symbol {
    var id: UInt32
    var start: Int32
    var end: Int32
    /// Neighbours by index, -1 at the ends; used for long words only.
    var previous: Int32 = -1
    var next: Int32 = -1
  }

  private struct Candidate {
    /// Rank above index of the left symbol.
    let order: UInt64
    /// What the pair becomes; a pair that has changed since becomes something else.
    let id: UInt32
  }

  private static let noRank = UInt32.max
  private static let longWord = 40

  /// The symbols of one word: filled by the caller, merged by `merge`.
  var symbols: [Symbol] = []
  private var merges: [PairTable.Merge] = []
  private var heap: [Candidate] = []

  /// Merges `symbols` by what `pairs` says of two neighbours.
  mutating func merge(_ pairs: (Symbol, Symbol) -> PairTable.Merge?) {
    if symbols.count > Self.longWord { mergeLong(pairs) } else { mergeShort(pairs) }
  }

  private mutating func mergeShort(_ pairs: (Symbol, Symbol) -> PairTable.Merge?) {
    var count = symbols.count
    guard count > 1 else { return }
    let none = PairTable.Merge(rank: Self.noRank, id: 0)
    merges.removeAll(keepingCapacity: true)
    for index in 0..<count - 1 { merges.append(pairs(symbols[index], symbols[index + 1]) ?? none) }
    while count > 1 {
      var best = 0
      for index in 1..<max(count - 1, 1) where merges[index].rank < merges[best].rank { best = index }
      guard merges[best].rank != Self.noRank else { break }
      symbols[best].id = merges[best].id
      symbols[best].end = symbols[best + 1].end
      symbols.remove(at: best + 1)
      merges.remove(at: best)
      count -= 1
      if best < count - 1 { merges[best] = pairs(symbols[best], symbols[best + 1]) ?? none }
      if best > 0 { merges[best - 1] = pairs(symbols[best - 1], symbols[best]) ?? none }
    }
  }

  private mutating func mergeLong(_ pairs: (Symbol, Symbol) -> PairTable.Merge?) {
    heap.removeAll(keepingCapacity: true)
    let last = symbols.count - 1
    for index in 0...last {
      symbols[index].previous = Int32(index - 1)
      symbols[index].next = index == last ? -1 : Int32(index + 1)
      if index < last { push(index, pairs(symbols[index], symbols[index + 1])) }
    }
    while let top = pop() {
      let index = Int(top.order & 0xFFFF_FFFF)
      var left = symbols[index]
      // An end before the start marks a symbol that was merged away.
      guard left.end > left.start, left.next >= 0 else { continue }
      let right = symbols[Int(left.next)]
      guard let merge = pairs(left, right), merge.id == top.id else { continue }
      symbols[Int(left.next)].end = -1
      left.id = merge.id
      left.end = right.end
      left.next = right.next
      symbols[index] = left
      if left.next >= 0 {
        symbols[Int(left.next)].previous = Int32(index)
        push(index, pairs(left, symbols[Int(left.next)]))
      }
      if left.previous >= 0 { push(Int(left.previous), pairs(symbols[Int(left.previous)], left)) }
    }
    symbols.removeAll { $0.end < 0 }
  }

  private mutating func push(_ index: Int, _ merge: PairTable.Merge?) {
    guard let merge else { return }
    heap.append(Candidate(order: UInt64(merge.rank) << 32 | UInt64(index), id: merge.id))
    var child = heap.count - 1
    while child > 0 {
      let parent = (child - 1) / 2
      if heap[parent].order <= heap[child].order { break }
      heap.swapAt(parent, child)
      child = parent
    }
  }

  private mutating func pop() -> Candidate? {
    guard let top = heap.first, let last = heap.popLast() else { return nil }
    if heap.isEmpty { return top }
    heap[0] = last
    var parent = 0
    while true {
      var child = 2 * parent + 1
      guard child < heap.count else { break }
      if child + 1 < heap.count, heap[child + 1].order < heap[child].order { child += 1 }
      if heap[parent].order <= heap[child].order { break }
      heap.swapAt(parent, child)
      parent = child
    }
    return top
  }
}
