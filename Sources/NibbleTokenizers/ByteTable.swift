/// Byte strings with a number each, found by their bytes.
///
/// All bytes lie in one array and the table holds indices into it, so a hundred thousand tokens are a handful of
/// allocations. Hashing is keyed by the process: a file cannot be made to collide.
struct ByteTable: Sendable {
  private var blob: [UInt8] = []
  private var starts: [Int] = [0]
  private var numbers: [UInt32] = []
  /// Index + 1 of an entry, 0 where free; always at least half free.
  private var slots: [UInt32]
  private var mask: Int

  init(capacity: Int = 0) {
    var size = 16
    while size < capacity * 2 { size *= 2 }
    slots = [UInt32](repeating: 0, count: size)
    mask = size - 1
    starts.reserveCapacity(capacity + 1)
    numbers.reserveCapacity(capacity)
  }

  var count: Int { numbers.count }

  /// The bytes of the entry that was put in at `index`.
  func bytes(_ index: Int) -> ArraySlice<UInt8> { blob[starts[index]..<starts[index + 1]] }

  /// Puts `bytes` in. If they are there already, nothing changes and their number is returned.
  mutating func insert(_ bytes: UnsafeBufferPointer<UInt8>, _ number: UInt32) -> UInt32? {
    if (count + 1) * 2 > slots.count { grow() }
    let (slot, found) = find(bytes)
    if found { return numbers[Int(slots[slot]) - 1] }
    blob.append(contentsOf: bytes)
    starts.append(blob.count)
    numbers.append(number)
    slots[slot] = UInt32(numbers.count)
    return nil
  }

  mutating func insert(_ bytes: [UInt8], _ number: UInt32) -> UInt32? {
    bytes.withUnsafeBufferPointer { insert($0, number) }
  }

  /// The number of `bytes`.
  func number(of bytes: UnsafeBufferPointer<UInt8>) -> UInt32? {
    let (slot, found) = find(bytes)
    return found ? numbers[Int(slots[slot]) - 1] : nil
  }

  func number(of bytes: some Sequence<UInt8>) -> UInt32? {
    ContiguousArray(bytes).withUnsafeBufferPointer { number(of: $0) }
  }

  private func find(_ bytes: UnsafeBufferPointer<UInt8>) -> (slot: Int, found: Bool) {
    var slot = Int(truncatingIfNeeded: hash(of: bytes)) & mask
    while slots[slot] != 0 {
      let entry = Int(slots[slot]) - 1
      let start = starts[entry]
      if starts[entry + 1] - start == bytes.count,
        blob.withUnsafeBufferPointer({ isEqual($0, at: start, bytes) })
      {
        return (slot, true)
      }
      slot = (slot + 1) & mask
    }
    return (slot, false)
  }

  private mutating func grow() {
    slots = [UInt32](repeating: 0, count: slots.count * 2)
    mask = slots.count - 1
    for entry in 0..<count {
      let key = blob.withUnsafeBufferPointer {
        hash(of: UnsafeBufferPointer(rebasing: $0[starts[entry]..<starts[entry + 1]]))
      }
      var slot = Int(truncatingIfNeeded: key) & mask
      while slots[slot] != 0 { slot = (slot + 1) & mask }
      slots[slot] = UInt32(entry + 1)
    }
  }
}

/// Whether `bytes` stand in `blob` at `start`.
@inline(__always)
func isEqual(_ blob: UnsafeBufferPointer<UInt8>, at start: Int, _ bytes: UnsafeBufferPointer<UInt8>) -> Bool {
  for index in 0..<bytes.count where blob[start &+ index] != bytes[index] { return false }
  return true
}

private let hashKey = UInt64.random(in: .min ... .max) | 1

/// Both halves of a product, one over the other: every bit of the result hangs on every bit of both factors.
@inline(__always)
func foldedProduct(_ a: UInt64, _ b: UInt64) -> UInt64 {
  let product = a.multipliedFullWidth(by: b)
  return product.high ^ product.low
}

/// A hash of a few bytes that costs a few nanoseconds: two words at a time, multiplied and folded.
@inline(__always)
func hash(of bytes: UnsafeBufferPointer<UInt8>) -> UInt64 {
  let raw = UnsafeRawBufferPointer(bytes)
  var state = hashKey ^ UInt64(truncatingIfNeeded: bytes.count)
  var at = 0
  while at &+ 8 <= raw.count {
    state = foldedProduct(state ^ raw.loadUnaligned(fromByteOffset: at, as: UInt64.self), 0x9E37_79B9_7F4A_7C15)
    at &+= 8
  }
  var rest: UInt64 = 0
  while at < raw.count {
    rest = rest << 8 | UInt64(raw[at])
    at &+= 1
  }
  return foldedProduct(state ^ rest, hashKey ^ 0xD6E8_FEB8_6659_FD93)
}
