import NibbleCore
import NibbleQuant

extension Checkpoint {
  /// Opens a block file: checks header and table and that the sections tile the file; hashes no section.
  static func openNbl(_ file: InputFile) throws -> Checkpoint {
    let header = try NblHeader(of: file)
    let tableBytes = try file.bytes(at: NblHeader.length, count: header.tableLength)
    guard XXH3.digest64(of: tableBytes) == header.tableChecksum else {
      throw NibbleError.integrity("\(file.path): the table's checksum does not hold")
    }
    let table = try NblTable(tableBytes, place: "\(file.path): table")
    try checkTiling(table, file, header)
    var checkpoint = Checkpoint(path: file.path, container: .nbl)
    checkpoint.files = [file]
    checkpoint.claimedIdentity = table.identity
    checkpoint.tensors = table.tensors.map { entry in
      var tensor = StoredTensor(
        ByteName(entry.name), entry.dtype, entry.shape, sections: entry.sections.map { StoredSection($0, in: file) })
      tensor.isTransposed = entry.isTransposed
      tensor.encoding = entry.encoding
      tensor.digest = entry.digest
      tensor.foreign.storage = entry.storage
      return tensor
    }
    checkpoint.smallFiles = table.files.map { SmallFile(name: $0.name, section: StoredSection($0.section, in: file)) }
    for (key, value) in table.texts where key == "provenance" || key == "metadata" {
      func fail(_ reason: String) -> NibbleError { .badInput("\(file.path): table: text \(quoted(key)): \(reason)") }
      let json: JSON
      do { json = try JSON.parse(value) } catch { throw fail(error.reason) }
      guard let members = json.members else { throw fail("not a JSON object") }
      if key == "provenance" {
        checkpoint.provenance = json
      } else {
        checkpoint.metadata = try members.map { member in
          guard let text = member.value.string else { throw fail("\(quoted(member.key)) is not a text") }
          return (member.key, text)
        }
      }
    }
    if let config = checkpoint.smallFiles.first(where: { $0.name == "config.json" }) {
      let reader = try SectionReader(config.section, "config.json")
      do { checkpoint.config = try JSON.parse(try reader.readWhole(limit: jsonLimit)) } catch let error as JSONError {
        throw NibbleError.badInput("\(file.path): embedded config.json: \(error.reason) at byte \(error.offset)")
      }
      try checkpoint.checkConfig()
    }
    return checkpoint
  }

  /// Every byte belongs to the header, the table, one section, or the zeros before one.
  private static func checkTiling(_ table: NblTable, _ file: InputFile, _ header: NblHeader) throws {
    var end = NblHeader.length + header.tableLength
    func check(_ section: NblTable.Section, _ name: String) throws {
      guard let start = aligned(end, to: NblHeader.alignment), section.offset == start,
        section.storedLength <= file.size - start
      else {
        throw NibbleError.badInput(
          "\(file.path): table: a section of \(quoted(name)) at byte \(section.offset) with \(section.storedLength) bytes "
            + "does not follow what is before it")
      }
      end = start + section.storedLength
    }
    for (name, section) in table.files { try check(section, name) }
    for tensor in table.tensors { for section in tensor.sections { try check(section, tensor.name) } }
    guard end == file.size else {
      throw NibbleError.badInput("\(file.path): table: the sections end at byte \(end), the file at \(file.size)")
    }
  }
}

extension StoredSection {
  init(_ entry: NblTable.Section, in file: InputFile) {
    self.init(entry.kind, in: file, at: entry.offset, count: entry.storedLength)
    plainLength = entry.plainLength
    compression = entry.compression
    checksum = entry.checksum
  }
}
