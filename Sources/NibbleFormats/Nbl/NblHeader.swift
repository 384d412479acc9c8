import NibbleCore

/// The first 64 bytes of a block file. Every field is specified in `formats/nbl/README.md`.
struct NblHeader {
  static let magic: [UInt8] = [0x89, 0x4E, 0x42, 0x4C, 0x0D, 0x0A, 0x1A, 0x0A]
  static let length = 64
  static let version = 1
  static let alignment = 64
  /// Features a reader must know to read the file; this version defines none.
  static let knownRequired: UInt64 = 0

  var fileLength: Int
  var tableLength: Int
  var tableChecksum: UInt64

  var bytes: [UInt8] {
    var out = ByteWriter()
    out.append(Self.magic)
    out.u32(Self.version)
    out.u32(0)
    out.u64(0)  // required features
    out.u64(0)  // optional features
    out.u64(fileLength)
    out.u64(tableLength)
    out.u64(tableChecksum)
    out.u64(XXH3.digest64(of: out.bytes))
    return out.bytes
  }

  init(fileLength: Int, tableLength: Int, tableChecksum: UInt64) {
    self.fileLength = fileLength
    self.tableLength = tableLength
    self.tableChecksum = tableChecksum
  }

  init(of file: InputFile) throws {
    guard file.size >= Self.length else {
      throw NibbleError.badInput("\(file.path): \(file.size) bytes are too few for a block file's header; it is cut")
    }
    try self.init(file.bytes(at: 0, count: Self.length), place: file.path)
    guard fileLength == file.size else {
      throw NibbleError.integrity(
        "\(file.path): the header says \(fileLength) bytes, the file has \(file.size); it is cut or was appended to")
    }
  }

  /// Reads the header at the start of `bytes`, of a file that need not be there.
  init(_ bytes: [UInt8], place: String) throws {
    var fields = ByteReader(bytes, place: "\(place): header")
    guard try fields.take(8) == Self.magic else { throw NibbleError.badInput("\(place): not a block file") }
    let version = try fields.u32()
    let reserved = try fields.u32()
    let required = try fields.u64()
    _ = try fields.u64()
    let lengths = (try fields.u64(), try fields.u64())
    tableChecksum = try fields.u64()
    guard try fields.u64() == XXH3.digest64(of: Array(bytes[..<56])) else {
      throw NibbleError.integrity("\(place): the header's checksum does not hold")
    }
    guard version == Self.version, reserved == 0 else {
      throw NibbleError.badInput("\(place): block file version \(version), this nibble reads version \(Self.version)")
    }
    guard required & ~Self.knownRequired == 0 else {
      throw NibbleError.badInput("\(place): needs features (\(hexText(required))) that this nibble does not have")
    }
    guard let fileLength = Int(exactly: lengths.0), fileLength >= Self.length, lengths.1 <= fileLength - Self.length else {
      throw NibbleError.badInput("\(place): the table of \(lengths.1) bytes does not fit into the file of \(lengths.0)")
    }
    self.fileLength = fileLength
    tableLength = Int(lengths.1)
  }
}

/// Little-endian fields of untrusted bytes, one after another.
struct ByteReader {
  private let bytes: [UInt8]
  private(set) var at = 0
  private let place: String

  init(_ bytes: [UInt8], place: String) {
    self.bytes = bytes
    self.place = place
  }

  func fail(_ reason: String) -> NibbleError { .badInput("\(place): \(reason) at byte \(at)") }

  var isAtEnd: Bool { at == bytes.count }

  mutating func take(_ count: Int) throws -> [UInt8] {
    guard count >= 0, count <= bytes.count - at else { throw fail("cut") }
    defer { at += count }
    return Array(bytes[at..<at + count])
  }

  private mutating func little(_ count: Int) throws -> UInt64 {
    guard count <= bytes.count - at else { throw fail("cut") }
    defer { at += count }
    return (0..<count).reduce(UInt64(0)) { $0 | UInt64(bytes[at + $1]) << UInt64(8 * $1) }
  }

  mutating func u8() throws -> UInt8 { UInt8(try little(1)) }
  mutating func u16() throws -> Int { Int(try little(2)) }
  mutating func u32() throws -> Int { Int(try little(4)) }
  mutating func u64() throws -> UInt64 { try little(8) }

  /// A 64-bit count that fits an `Int`.
  mutating func count() throws -> Int {
    let value = try u64()
    guard let count = Int(exactly: value) else { throw fail("the number \(value)") }
    return count
  }

  mutating func text() throws -> String {
    let bytes = try take(u32())
    guard let text = String(validating: bytes, as: UTF8.self) else { throw fail("a text that is not UTF-8") }
    return text
  }

  mutating func digest() throws -> Digest128 {
    let bytes = try take(16)
    func half(_ part: ArraySlice<UInt8>) -> UInt64 { part.reduce(0) { $0 << 8 | UInt64($1) } }
    return Digest128(high: half(bytes[..<8]), low: half(bytes[8...]))
  }
}
