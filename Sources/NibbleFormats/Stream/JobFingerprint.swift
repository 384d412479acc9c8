import NibbleCore
import NibbleQuant

extension StreamJob {
  /// A name for all that decides the bytes of the output: the program, its options, and every input.
  ///
  /// Sections that have a checksum are known by it. All others are known by their file as it is now: its number, size and times, which
  /// change with every write and every move.
  package var fingerprint: Digest128 {
    let hash = XXH3()
    func add(_ text: String) { hash.update(Array(text.utf8) + [0]) }
    func add(_ section: StoredSection) {
      add("\(section.kind) \(section.plainLength) \(section.storedLength) \(section.compression) \(section.order.map { "\($0)" } ?? "")")
      switch section.source {
      case .memory(let bytes): add("\(bytes.count) \(XXH3.digest64(of: bytes))")
      case .file(let file, let offset): add(section.checksum.map(hexText) ?? "\(file.stamp) \(offset)")
      case .patched(let bytes):
        add("\(bytes.part) \(bytes.patch.file.stamp)")
        if let base = bytes.base { add(base) }
      case .composed(let composed):
        add("\(composed.rule)")
        for part in composed.parts { add(part) }
      }
    }
    func add(_ tensor: StoredTensor) {
      var identity = IdentityHasher()
      identity.add(tensor.name, tensor.dtype, tensor.shape, tensor.encoding, tensor.digest ?? Digest128(high: 0, low: 0))
      add("\(identity.identity) \(tensor.isTransposed)")
      for section in tensor.sections { add(section) }
    }
    // Two builds of one version count as different programs: the source may have changed between them.
    add("nibble \(nibbleVersion) \((try? InputFile("/proc/self/exe"))?.stamp.dropFirst().prefix(3) ?? [])")
    add("\(output.format) \(output.isSingleFile) \(output.maximumShard) \(output.compression)")
    add(output.format.container.ingredients(self))
    add("\(rules) \(encoder) \(offsets) \(dtypeName ?? "") \(changing.ingredients.text())")
    add(provenance(Digest128(high: 0, low: 0))?.text() ?? "")
    add(origin?.json.text() ?? "")
    add(source.config?.text() ?? "")
    for (key, value) in source.metadata { add(JSON.array([JSON(key), JSON(value)]).text()) }
    for file in source.smallFiles {
      add(file.name)
      if let section = try? file.section { add(section) }
    }
    for item in items {
      let target = item.target
      var identity = IdentityHasher()
      identity.add(target.name, target.dtype, target.shape, target.encoding, Digest128(high: 0, low: 0))
      add("\(identity.identity) \(target.isTransposed) \(target.foreign.storage) \(item.isShaped) \(item.change != nil)")
      add(item.source)
      if let whole = item.whole { add(whole) }
      if let replacement = item.replacement { add(replacement) }
      if let text = target.stateText { add(text) }
      if let importance = target.importance { importance.withUnsafeBytes { add(hexText(XXH3.digest64(of: Array($0)))) } }
    }
    return hash.digest128
  }
}
