import NibbleCore

/// The first 80 bytes of a patch. Every field is specified in `formats/patch/README.md`.
struct PatchHeader {
  private static let frame = HeaderFrame(
    kind: "patch", magic: [0x89, 0x4E, 0x50, 0x54, 0x0D, 0x0A, 0x1A, 0x0A], version: 1, fields: 4)
  static var magic: [UInt8] { frame.magic }
  static let length = frame.length
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
    Self.frame.bytes(fileLength: fileLength, [UInt64(heads.0), UInt64(heads.1), UInt64(spans), checksum])
  }

  init(fileLength: Int, heads: (Int, Int), spans: Int, checksum: UInt64) {
    (self.fileLength, self.heads, self.spans, self.checksum) = (fileLength, heads, spans, checksum)
  }

  init(of file: InputFile) throws {
    let fields = try Self.frame.read(of: file)
    var room = file.size - Self.length
    func take(_ value: UInt64, times unit: Int) throws -> Int {
      guard let count = Int(exactly: value), count <= room / unit else {
        throw NibbleError.badInput(
          "\(path: file.path): heads of \(fields[0]) and \(fields[1]) bytes and \(fields[2]) spans do not fit into the file")
      }
      room -= count * unit
      return count
    }
    heads = (try take(fields[0], times: 1), try take(fields[1], times: 1))
    spans = try take(fields[2], times: Self.entryLength)
    checksum = fields[3]
    fileLength = file.size
  }
}
