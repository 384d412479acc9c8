import NibbleCore

/// What the headers of nibble's own files have in common: a magic, a version, features a reader must or may know, the file's length,
/// then fields of the kind's own and a checksum over all of it.
struct HeaderFrame {
  /// In messages.
  let kind: String
  let magic: [UInt8]
  let version: Int
  /// How many fields of 64 bits are its own.
  let fields: Int

  /// Features a reader must know to read the file; no version defines any.
  private static let knownRequired: UInt64 = 0

  /// Bytes of the header.
  var length: Int { 48 + 8 * fields }

  func bytes(fileLength: Int, _ fields: [UInt64]) -> [UInt8] {
    var out = ByteWriter()
    out.append(magic)
    out.u32(version)
    out.u32(0)
    out.u64(0)  // required features
    out.u64(0)  // optional features
    out.u64(fileLength)
    for field in fields { out.u64(field) }
    out.u64(XXH3.digest64(of: out.bytes))
    return out.bytes
  }

  /// The own fields of a file's header.
  ///
  /// - Throws: `.badInput` for a file of another kind or version, `.integrity` for one that is damaged or not as long as it says
  func read(of file: InputFile) throws -> [UInt64] {
    let bytes = try file.bytes(at: 0, count: min(length, file.size))
    guard bytes.starts(with: magic) else {
      throw NibbleError.badInput("\(path: file.path): not a \(kind): its first bytes are not the magic of one")
    }
    guard bytes.count == length else {
      throw NibbleError.badInput("\(path: file.path): \(file.size) bytes are too few for a \(kind)'s header; it is cut")
    }
    let (fileLength, fields) = try read(bytes, place: "\(path: file.path)")
    guard fileLength == file.size else {
      throw NibbleError.integrity(
        "\(path: file.path): the header says \(fileLength) bytes, the file has \(file.size); it is cut or was appended to")
    }
    return fields
  }

  /// The header at the start of `bytes`, of a file that need not be there.
  func read(_ bytes: [UInt8], place: MessageText) throws -> (fileLength: Int, fields: [UInt64]) {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(place): \(reason)") }
    var words = ByteReader(bytes, place: "\(place): header")
    guard try words.take(magic.count) == magic else { throw fail("not a \(kind)") }
    let version = try words.u32()
    let reserved = try words.u32()
    let required = try words.u64()
    _ = try words.u64()
    let fileLength = try words.u64()
    let own = try (0..<fields).map { _ in try words.u64() }
    let covered = words.at
    guard try words.u64() == XXH3.digest64(of: Array(bytes[..<covered])) else {
      throw NibbleError.integrity("\(place): the header's checksum does not hold")
    }
    guard version == self.version, reserved == 0 else {
      throw fail("\(kind) version \(version), this nibble reads version \(self.version)")
    }
    guard required & ~Self.knownRequired == 0 else {
      throw fail("needs features (\(hexText(required))) that this nibble does not have")
    }
    guard let fileLength = Int(exactly: fileLength), fileLength >= length else {
      throw fail("the header says \(fileLength) bytes, which no \(kind) has")
    }
    return (fileLength, own)
  }
}
