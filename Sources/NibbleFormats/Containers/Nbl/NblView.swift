import NibbleCore

/// A checkpoint as the block file that it is or would be: what such a file begins with, and where the bytes of its sections are.
struct NblView: Sendable {
  let head: NblHead
  /// In the order of the file; stored bytes.
  let sections: [StoredSection]

  /// - Parameter threads: for reading all of a checkpoint that is no block file
  init(_ checkpoint: Checkpoint, threads: Int = availableCores) throws {
    if checkpoint.container == .nbl, let file = checkpoint.files.first {
      let head = try NblHead(of: file)
      self.head = head
      sections = head.sections.map { StoredSection($0.section, in: file) }
      return
    }
    let files = checkpoint.smallFiles.filter { $0.name != "README.md" }  // says what the folder is, and is no part of the model
    let targets = checkpoint.tensors.map { TensorTarget(keeping: $0) }
    var table = NblWriter.emptyTable(targets, files, metadata: checkpoint.metadata, provenance: nil, origin: nil)
    table.tensors = targets.map(NblWriter.entry)
    let sections = try files.map { try $0.section } + checkpoint.tensors.flatMap(\.sections)
    var end = NblHeader.length + table.bytes.count
    var number = 0
    let stream = TensorStream(threads: threads) { _ in }
    func place(_ section: inout NblTable.Section, _ name: String) throws {
      guard let start = aligned(end, to: NblHeader.alignment) else {
        throw NibbleError.badInput("\(path: checkpoint.path): too large for a block file")
      }
      section.offset = start
      section.storedLength = section.plainLength
      let hash = XXH3()
      try stream.read(sections[number], name, hash)
      section.checksum = hash.digest64
      (end, number) = (start + section.storedLength, number + 1)
    }
    for index in table.files.indices { try place(&table.files[index].section, table.files[index].name) }
    var identity = IdentityHasher()
    for (index, tensor) in checkpoint.tensors.enumerated() {
      for section in table.tensors[index].sections.indices {
        try place(&table.tensors[index].sections[section], tensor.name.text)
      }
      let digest = try stream.hash(tensor)
      table.tensors[index].digest = digest
      identity.add(tensor.name, tensor.dtype, tensor.shape, tensor.encoding, digest)
    }
    table.identity = identity.identity
    let bytes = table.bytes
    let header = NblHeader(fileLength: end, tableLength: bytes.count, tableChecksum: XXH3.digest64(of: bytes))
    head = try NblHead(header.bytes + bytes, place: "\(path: checkpoint.path)")
    self.sections = sections
  }
}
