import NibbleCore

/// The first 64 bytes of a block file. Every field is specified in `formats/nbl/README.md`.
struct NblHeader {
  private static let frame = HeaderFrame(
    kind: "block file", magic: [0x89, 0x4E, 0x42, 0x4C, 0x0D, 0x0A, 0x1A, 0x0A], version: 1, fields: 2)
  static var magic: [UInt8] { frame.magic }
  static let length = frame.length
  static let alignment = 64

  var fileLength: Int
  var tableLength: Int
  var tableChecksum: UInt64

  var bytes: [UInt8] { Self.frame.bytes(fileLength: fileLength, [UInt64(tableLength), tableChecksum]) }

  init(fileLength: Int, tableLength: Int, tableChecksum: UInt64) {
    self.fileLength = fileLength
    self.tableLength = tableLength
    self.tableChecksum = tableChecksum
  }

  init(of file: InputFile) throws {
    try self.init(fileLength: file.size, Self.frame.read(of: file), place: "\(path: file.path)")
  }

  /// Reads the header at the start of `bytes`, of a file that need not be there.
  init(_ bytes: [UInt8], place: MessageText) throws {
    let (fileLength, fields) = try Self.frame.read(bytes, place: place)
    try self.init(fileLength: fileLength, fields, place: place)
  }

  private init(fileLength: Int, _ fields: [UInt64], place: MessageText) throws {
    guard fields[0] <= fileLength - Self.length else {
      throw NibbleError.badInput("\(place): the table of \(fields[0]) bytes does not fit into the file of \(fileLength)")
    }
    self.init(fileLength: fileLength, tableLength: Int(fields[0]), tableChecksum: fields[1])
  }
}
