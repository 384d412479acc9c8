import NibbleCore

/// A section as a patch makes it, from the bytes a checkpoint has.
package final class PatchedBytes: Sendable {
  let patch: PatchFile
  let part: Int
  /// The section that the patch is applied to, if there is one.
  let base: StoredSection?

  init(_ patch: PatchFile, _ part: Int, base: StoredSection?) { (self.patch, self.part, self.base) = (patch, part, base) }

  /// Fills `buffer` with the bytes from `start`.
  func read(into buffer: UnsafeMutableRawBufferPointer, at start: Int) throws {
    try readBase(into: buffer, at: start)
    try patch.apply(part, at: start, to: buffer)
  }

  /// The same as they were before, and zeros behind their end.
  func readBase(into buffer: UnsafeMutableRawBufferPointer, at start: Int) throws {
    let have = min(max((base?.readLength ?? 0) - start, 0), buffer.count)
    if have > 0 { try base?.read(into: .init(rebasing: buffer[..<have]), at: start) }
    UnsafeMutableRawBufferPointer(rebasing: buffer[have...]).initializeMemory(as: UInt8.self, repeating: 0)
  }
}

extension StoredSection {
  /// Fills `buffer` with stored bytes from `offset`, in the order in which they are used.
  func read(into buffer: UnsafeMutableRawBufferPointer, at offset: Int) throws {
    if let order, !order.isInPlace {
      if case .composed(let composed) = source {
        return try composed.bytes(place).withUnsafeBytes { order.fill(buffer, from: offset, of: $0) }
      }
      guard case .file(let file, let start) = source else { return }
      let bytes = try file.sharedMap().bytes
      guard start >= 0, start <= bytes.count, storedLength <= bytes.count - start else { throw NibbleError.badInput("\(path: file.path): too short") }
      return order.fill(buffer, from: offset, of: UnsafeRawBufferPointer(rebasing: bytes[start..<start + storedLength]))
    }
    defer { order?.apply(buffer, isWriting: false) }
    switch source {
    case .memory(let bytes):
      bytes.withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
    case .file(let file, let start): try file.read(into: buffer, at: start + offset)
    case .patched(let patched): try patched.read(into: buffer, at: offset)
    case .composed(let composed):
      try composed.bytes(place).withUnsafeBytes { buffer.copyMemory(from: .init(rebasing: $0[offset..<offset + buffer.count])) }
    }
  }

  /// Lets go of memory that reading it took.
  func release() {
    if case .composed(let composed) = source { return composed.release() }
    guard let order, !order.isInPlace, case .file(let file, let start) = source else { return }
    try? file.sharedMap().release(start..<start + storedLength)
  }
}

extension Checkpoint {
  /// The other one of the two that `patch` was made of, read from this one. Nothing is written; of a block file little is read.
  ///
  /// - Parameter fromFirst: whether this must be the first of the two
  /// - Throws: `.adapterMismatch` if this is neither of the two
  package func patched(by patch: PatchFile, fromFirst: Bool = false) throws -> Checkpoint {
    let view = try NblView(self)
    let side = try patch.side(of: view.head, path, fromFirst: fromFirst)
    var parts: [Int: Int] = [:]
    for (index, part) in patch.parts.enumerated() {
      if let number = part[side.other]?.number { parts[number] = index }
    }
    var other = try Checkpoint.open(patch.head(side.other), path) { number, entry in
      let index = parts[number]
      let base = index.flatMap { patch.parts[$0][side] }.map { view.sections[$0.number] }
      var section = StoredSection(entry, from: base?.source ?? .memory([]))
      if let index, patch.changes(index) {
        section.source = .patched(PatchedBytes(patch, index, base: base))
      } else if let base, let order = base.order {
        (section.order, section.storedLength) = (order, base.storedLength)
      }
      return section
    }
    (other.container, other.files) = (container, files)
    (other.layoutFormat, other.isStoredAnew, other.configIsStored) = (layoutFormat, isStoredAnew, configIsStored)
    other.warnings += warnings
    return other
  }
}
