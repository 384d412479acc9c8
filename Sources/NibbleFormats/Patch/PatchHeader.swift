import NibbleCore

/// The first 80 bytes of a patch. Every field is specified in `formats/patch/README.md`.
struct PatchHeader {
  static let magic: [UInt8] = [0x89, 0x4E, 0x50, 0x54, 0x0D, 0x0A, 0x1A, 0x0A]
  static let length = 80
  static let version = 1
  /// Features a reader must know to read the file; this version defines none.
  static let knownRequired: UInt64 = 0
  /// Bytes of a part that are coded together.
  static let spanLength = 256 << 10
  /// Bytes of a span in the index.
  static let entryLength = 32

  var fileLength: Int
  /// Bytes of both heads.
  var heads: (Int, Int)
  var spans: Int
  /// XXH3-64 of both heads, then of the index.
  var checksum: UInt64

  /// Where the index begins.
  var index: Int { fileLength - spans * Self.entryLength }

  var bytes: [UInt8] {
    var out = ByteWriter()
    out.append(Self.magic)
    out.u32(Self.version)
    out.u32(0)
    out.u64(0)  // required features
    out.u64(0)  // optional features
    out.u64(fileLength)
    out.u64(heads.0)
    out.u64(heads.1)
    out.u64(spans)
    out.u64(checksum)
    out.u64(XXH3.digest64(of: out.bytes))
    return out.bytes
  }

  init(fileLength: Int, heads: (Int, Int), spans: Int, checksum: UInt64) {
    (self.fileLength, self.heads, self.spans, self.checksum) = (fileLength, heads, spans, checksum)
  }

  init(of file: InputFile) throws {
    func fail(_ reason: String) -> NibbleError { .badInput("\(file.path): \(reason)") }
    let bytes = try file.bytes(at: 0, count: min(Self.length, file.size))
    guard bytes.starts(with: Self.magic) else { throw fail("not a patch: its first bytes are not the magic of one") }
    guard bytes.count == Self.length else { throw fail("\(file.size) bytes are too few for a patch's header; it is cut") }
    var fields = ByteReader(bytes, place: "\(file.path): header")
    _ = try fields.take(8)
    let version = try fields.u32()
    let reserved = try fields.u32()
    let required = try fields.u64()
    _ = try fields.u64()
    let counts = try (0..<4).map { _ in try fields.u64() }
    checksum = try fields.u64()
    guard try fields.u64() == XXH3.digest64(of: Array(bytes[..<72])) else {
      throw NibbleError.integrity("\(file.path): the header's checksum does not hold")
    }
    guard version == Self.version, reserved == 0 else {
      throw fail("patch version \(version), this nibble reads version \(Self.version)")
    }
    guard required & ~Self.knownRequired == 0 else {
      throw fail("needs features (\(hexText(required))) that this nibble does not have")
    }
    guard counts[0] == UInt64(file.size) else {
      throw NibbleError.integrity(
        "\(file.path): the header says \(counts[0]) bytes, the file has \(file.size); it is cut or was appended to")
    }
    var room = file.size - Self.length
    func take(_ value: UInt64, times unit: Int) throws -> Int {
      guard let count = Int(exactly: value), count <= room / unit else {
        throw fail("heads of \(counts[1]) and \(counts[2]) bytes and \(counts[3]) spans do not fit into the file")
      }
      room -= count * unit
      return count
    }
    heads = (try take(counts[1], times: 1), try take(counts[2], times: 1))
    spans = try take(counts[3], times: Self.entryLength)
    fileLength = file.size
  }
}
