import NibbleCore
import NibbleQuant

extension Checkpoint {
  /// Opens a block file; hashes no section.
  static func openNbl(_ file: InputFile) throws -> Checkpoint {
    var checkpoint = try open(try NblHead(of: file), file.path) { StoredSection($1, in: file) }
    checkpoint.files = [file]
    return checkpoint
  }

  /// The block file at `path` that begins with `head`, its sections lying where `place` says of their numbers in the file's order.
  static func open(_ head: NblHead, _ path: String, _ place: (Int, NblTable.Section) -> StoredSection) throws -> Checkpoint {
    let table = head.table
    var number = 0
    func next(_ section: NblTable.Section) -> StoredSection {
      defer { number += 1 }
      return place(number, section)
    }
    var checkpoint = Checkpoint(path: path, container: .nbl)
    checkpoint.claimedIdentity = table.identity
    checkpoint.smallFiles = table.files.map { SmallFile(name: $0.name, section: next($0.section)) }
    checkpoint.tensors = table.tensors.map { entry in
      var tensor = StoredTensor(ByteName(entry.name), entry.dtype, entry.shape, sections: entry.sections.map(next))
      tensor.isTransposed = entry.isTransposed
      tensor.encoding = entry.encoding
      tensor.digest = entry.digest
      tensor.foreign.storage = entry.storage
      return tensor
    }
    for (key, value) in table.texts where ["provenance", "metadata", "origin"].contains(key) {
      func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: path): table: text \(subject: key): \(reason)") }
      let json: JSON
      do { json = try JSON.parse(value) } catch { throw fail("\(error.reason)") }
      guard let members = json.members else { throw fail("not a JSON object") }
      if key == "provenance" {
        checkpoint.provenance = json
      } else if key == "origin" {
        guard let origin = ModelOrigin(json: json) else { throw fail("no name of a model") }
        checkpoint.origin = origin
      } else {
        checkpoint.metadata = try members.map { member in
          guard let text = member.value.string else { throw fail("\(subject: member.key) is not a text") }
          return (member.key, text)
        }
      }
    }
    if let config = checkpoint.smallFiles.first(where: { $0.name == "config.json" }) {
      let reader = try SectionReader(try config.section, "config.json")
      do { checkpoint.config = try JSON.parse(try reader.readWhole(limit: jsonLimit)) } catch let error as JSONError {
        throw NibbleError.badInput("\(path: path): embedded config.json: \(error.reason) at byte \(error.offset)")
      }
      try checkpoint.checkConfig()
    }
    return checkpoint
  }
}

extension StoredSection {
  init(_ entry: NblTable.Section, in file: InputFile) { self.init(entry, from: .file(file, offset: entry.offset)) }

  /// What the table says of a section that lies elsewhere.
  init(_ entry: NblTable.Section, from source: Source) {
    (kind, self.source) = (entry.kind, source)
    (storedLength, plainLength) = (entry.storedLength, entry.plainLength)
    (compression, checksum) = (entry.compression, entry.checksum)
  }
}
