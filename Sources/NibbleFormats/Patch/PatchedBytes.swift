import NibbleCore

/// A section as a patch makes it, from the bytes a file has.
package struct PatchedBytes: Sendable {
  let patch: PatchFile
  let part: Int
  let file: InputFile
  /// Where the section is in the file that the patch is applied to, if it has one.
  let offset: Int
  let count: Int

  /// Fills `buffer` with the bytes from `start`.
  func read(into buffer: UnsafeMutableRawBufferPointer, at start: Int) throws {
    let have = min(max(count - start, 0), buffer.count)
    if have > 0 { try file.read(into: .init(rebasing: buffer[..<have]), at: offset + start) }
    UnsafeMutableRawBufferPointer(rebasing: buffer[have...]).initializeMemory(as: UInt8.self, repeating: 0)
    try patch.apply(part, at: start, to: buffer)
  }
}

extension StoredSection {
  /// Fills `buffer` with stored bytes from `offset`.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    switch source {
    case .memory(let bytes):
      bytes.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
    case .file(let file, let start): try file.read(into: buffer, at: start + offset)
    case .patched(let patched): try patched.read(into: buffer, at: offset)
    }
  }
}

extension Checkpoint {
  /// The other block file of the two that `patch` was made of, read from this one. Nothing is written, little is read.
  ///
  /// - Throws: `.adapterMismatch` if this is neither of the two
  package func patched(by patch: PatchFile) throws -> Checkpoint {
    let side = try patch.side(of: self)
    let file = files[0]
    var parts: [Int: Int] = [:]
    for (index, part) in patch.parts.enumerated() {
      if let number = part[side.other]?.number { parts[number] = index }
    }
    var other = try Checkpoint.open(patch.head(side.other), file) { number, entry in
      var section = StoredSection(entry, in: file)
      guard let index = parts[number] else { return section }
      let old = patch.parts[index][side]?.entry
      section.source =
        if let old, !patch.changes(index) {
          .file(file, offset: old.offset)
        } else {
          .patched(PatchedBytes(patch: patch, part: index, file: file, offset: old?.offset ?? 0, count: old?.storedLength ?? 0))
        }
      return section
    }
    other.warnings += warnings
    return other
  }
}
