/// Little-endian fields, one after another.
package struct ByteWriter {
  package private(set) var bytes: [UInt8] = []

  package init() {}

  package mutating func append(_ more: [UInt8]) { bytes += more }
  package mutating func u8(_ value: UInt8) { bytes.append(value) }
  package mutating func u16(_ value: Int) { little(UInt64(value), 2) }
  package mutating func u32(_ value: Int) { little(UInt64(value), 4) }
  package mutating func u64(_ value: Int) { little(UInt64(value), 8) }
  package mutating func u64(_ value: UInt64) { little(value, 8) }

  /// Length in four bytes, then UTF-8.
  package mutating func text(_ text: String) {
    u32(text.utf8.count)
    bytes += Array(text.utf8)
  }

  /// The canonical form of XXH3-128: sixteen bytes, most significant first.
  package mutating func digest(_ digest: Digest128) {
    for half in [digest.high, digest.low] {
      for shift in stride(from: 56, through: 0, by: -8) { bytes.append(UInt8(truncatingIfNeeded: half >> UInt64(shift))) }
    }
  }

  private mutating func little(_ value: UInt64, _ count: Int) {
    for index in 0..<count { bytes.append(UInt8(truncatingIfNeeded: value >> UInt64(8 * index))) }
  }
}

/// Little-endian fields of untrusted bytes, one after another.
package struct ByteReader {
  private let bytes: [UInt8]
  package private(set) var at = 0
  /// The file, and which part of it.
  private let place: MessageText

  package init(_ bytes: [UInt8], place: MessageText) {
    self.bytes = bytes
    self.place = place
  }

  package func fail(_ reason: MessageText) -> NibbleError { .badInput("\(place): \(reason) at byte \(at)") }

  /// A reader of some of its bytes, for the same messages.
  package func inner(_ bytes: [UInt8]) -> ByteReader { ByteReader(bytes, place: place) }

  package var isAtEnd: Bool { at == bytes.count }

  package mutating func take(_ count: Int) throws -> [UInt8] {
    guard count >= 0, count <= bytes.count - at else { throw fail("cut") }
    defer { at += count }
    return Array(bytes[at..<at + count])
  }

  private mutating func little(_ count: Int) throws -> UInt64 {
    guard count <= bytes.count - at else { throw fail("cut") }
    defer { at += count }
    return (0..<count).reduce(UInt64(0)) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) }
  }

  package mutating func u8() throws -> UInt8 { UInt8(try little(1)) }
  package mutating func u16() throws -> Int { Int(try little(2)) }
  package mutating func u32() throws -> Int { Int(try little(4)) }
  package mutating func u64() throws -> UInt64 { try little(8) }

  /// A 64-bit count that fits an `Int`.
  package mutating func count() throws -> Int {
    let value = try u64()
    guard let count = Int(exactly: value) else { throw fail("the number \(value)") }
    return count
  }

  package mutating func text() throws -> String {
    let bytes = try take(u32())
    guard let text = String(validating: bytes, as: UTF8.self) else { throw fail("a text that is not UTF-8") }
    return text
  }

  package mutating func digest() throws -> Digest128 {
    let bytes = try take(16)
    func half(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
    return Digest128(high: half(bytes[..<8]), low: half(bytes[8...]))
  }
}
