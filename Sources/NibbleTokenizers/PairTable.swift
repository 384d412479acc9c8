private let pairKey = UInt64.random(in: .min ... .max)

/// What two neighbouring tokens merge to, and how early: an open-addressing table from both ids to rank and new id.
struct PairTable: Sendable {
  struct Merge: Sendable {
    let rank: UInt32
    let id: UInt32
  }

  private static let free = UInt64.max
  private var keys: [UInt64]
  private var merges: [UInt64]
  private var shift: UInt64
  private(set) var count = 0

  init(capacity: Int) {
    var bits: UInt64 = 4
    while 1 << bits < capacity * 2 { bits += 1 }
    keys = [UInt64](repeating: Self.free, count: 1 << bits)
    merges = [UInt64](repeating: 0, count: 1 << bits)
    shift = 64 - bits
  }

  @inline(__always)
  private func slot(_ key: UInt64) -> Int {
    // Ids are below 2²⁴, so no key is the mark of a free slot.
    var slot = Int(truncatingIfNeeded: foldedProduct(key ^ pairKey, 0x9E37_79B9_7F4A_7C15) >> shift)
    while keys[slot] != key, keys[slot] != Self.free { slot = (slot &+ 1) & (keys.count &- 1) }
    return slot
  }

  /// Sets what a pair becomes; a pair that comes again takes its later rank, as Hugging Face's library has it.
  ///
  /// There must be room: `capacity` insertions.
  mutating func insert(_ left: UInt32, _ right: UInt32, _ merge: Merge) {
    let key = UInt64(left) << 32 | UInt64(right)
    let slot = slot(key)
    if keys[slot] == Self.free { count += 1 }
    keys[slot] = key
    merges[slot] = UInt64(merge.rank) << 32 | UInt64(merge.id)
  }

  @inline(__always)
  subscript(left: UInt32, right: UInt32) -> Merge? {
    let key = UInt64(left) << 32 | UInt64(right)
    let slot = slot(key)
    guard keys[slot] == key else { return nil }
    return Merge(rank: UInt32(truncatingIfNeeded: merges[slot] >> 32), id: UInt32(truncatingIfNeeded: merges[slot]))
  }
}
