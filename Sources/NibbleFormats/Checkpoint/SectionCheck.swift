import NibbleCore

extension StoredSection {
  /// Throws `.integrity` unless `found`, the checksum of the stored bytes, is the one the table has.
  func check(_ found: UInt64, against expected: UInt64, _ name: String) throws {
    guard found == expected else {
      throw NibbleError.integrity(
        "\(path: place): \(tensor: name), section \(kind): its bytes have checksum \(hexText(found)), "
          + "the table says \(hexText(expected))")
    }
  }
}

extension MappedCheckpoint {
  /// Checks the sections of some tensors where they lie, many at a time. Sections whose container keeps no checksum pass.
  ///
  /// The pages that this touches are those a pass needs next.
  ///
  /// - Throws: `.integrity` naming file, tensor and section
  package func checkSections(of tensors: [StoredTensor], threads: Int) throws {
    var checks: [(section: StoredSection, expected: UInt64, name: String)] = []
    for tensor in tensors {
      for section in tensor.sections {
        // What is compressed is not used in place.
        if section.compression == .none, let expected = section.checksum { checks.append((section, expected, tensor.name.text)) }
      }
    }
    // The largest first: none is left to one thread at the end.
    let sorted = checks.sorted { $0.section.storedLength > $1.section.storedLength }
    try forEachChunk(sorted.count, threads: threads, ScratchPool()) { [self] index, _, _ in
      let (section, expected, name) = sorted[index]
      try section.check(XXH3.digest64(of: try bytes(section, name)), against: expected, name)
    }
  }
}
