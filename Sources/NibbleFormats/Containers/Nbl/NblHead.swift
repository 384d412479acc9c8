import NibbleCore

/// What a block file begins with, header and table: everything about it but the bytes of its sections, whose checksums it holds.
struct NblHead: Sendable {
  let bytes: [UInt8]
  let header: NblHeader
  let table: NblTable

  /// Reads and checks header and table, and that the sections tile the file.
  init(of file: InputFile) throws {
    let header = try NblHeader(of: file)
    try self.init(header, file.bytes(at: 0, count: NblHeader.length + header.tableLength), place: "\(path: file.path)")
  }

  /// Reads the start of a block file that need not be there.
  init(_ bytes: [UInt8], place: MessageText) throws {
    let header = try NblHeader(bytes, place: place)
    guard bytes.count == NblHeader.length + header.tableLength else {
      throw NibbleError.badInput("\(place): \(bytes.count) bytes, of which the table is said to be \(header.tableLength)")
    }
    try self.init(header, bytes, place: place)
  }

  private init(_ header: NblHeader, _ bytes: [UInt8], place: MessageText) throws {
    let tableBytes = Array(bytes[NblHeader.length...])
    guard XXH3.digest64(of: tableBytes) == header.tableChecksum else {
      throw NibbleError.integrity("\(place): the table's checksum does not hold")
    }
    self.bytes = bytes
    self.header = header
    table = try NblTable(tableBytes, place: "\(place): table")
    try checkTiling(place)
  }

  /// Every section with the name of what it belongs to, in the order of the file.
  var sections: [(name: String, section: NblTable.Section)] {
    table.files + table.tensors.flatMap { tensor in tensor.sections.map { (tensor.name, $0) } }
  }

  /// Every byte belongs to the header, the table, one section, or the zeros before one.
  private func checkTiling(_ place: MessageText) throws {
    var end = bytes.count
    for (name, section) in sections {
      guard let start = aligned(end, to: NblHeader.alignment), section.offset == start, start <= header.fileLength,
        section.storedLength <= header.fileLength - start
      else {
        throw NibbleError.badInput(
          "\(place): table: a section of \(subject: name) at byte \(section.offset) with \(section.storedLength) bytes "
            + "does not follow what is before it")
      }
      end = start + section.storedLength
    }
    guard end == header.fileLength else {
      throw NibbleError.badInput("\(place): table: the sections end at byte \(end), the file at \(header.fileLength)")
    }
  }
}
