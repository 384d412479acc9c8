import NibbleCore

/// Turns one block file of a patch into the other.
public struct SwapJob: Sendable {
  /// What a swap did.
  public struct Report: Sendable {
    /// Identities of what the file was and of what it is.
    public let from: Digest128
    public let to: Digest128
    /// Sections that differ.
    public let changes: Int
    /// Bytes written.
    public let bytes: Int
    public let seconds: Double
    /// Things worth telling that stopped nothing.
    public let warnings: [Warning]
  }

  /// The block file.
  public let file: String
  /// Where to write; the file itself if it is swapped in place.
  public let output: String
  private let patch: PatchFile
  private let isInPlace: Bool
  private let source: Checkpoint
  private let view: NblView
  private let side: PatchSide
  /// Whether an existing output is replaced.
  public var force = false
  /// Threads to work with.
  public var threads = availableCores

  /// - Parameters:
  ///   - output: nil to replace the file, atomically
  ///   - fromFirst: whether the file must be the first of the two that the patch was made of
  /// - Throws: `.adapterMismatch` for a file that is neither of the two, `.badInput`, `.integrity`
  public init(_ file: String, _ patch: PatchFile, output: String?, fromFirst: Bool = false) throws {
    (self.file, self.patch) = (file, patch)
    source = try Checkpoint.open(file)
    guard source.container == .nbl else { throw NibbleError.usage("\(path: file): patches are for block files (.nbl)") }
    view = try NblView(source)
    side = try patch.side(of: view.head, file, fromFirst: fromFirst)
    // What comes out must be a block file that can be opened, or nothing would lead back.
    do { _ = try source.patched(by: patch, fromFirst: fromFirst) } catch let error as NibbleError where error.kind == .badInput {
      throw NibbleError.badInput("\(path: patch.path): what it makes of \(error.text)")
    }
    isInPlace = output == nil
    // A link stays one: what it leads to is replaced.
    self.output = output ?? realPath(file)
  }

  /// Everything that can be refused before anything is written.
  ///
  /// - Parameter isPlan: passes over a file that stands where the output goes; `obstacle` names it
  public func check(isPlan: Bool = false) throws {
    try StreamJob.checkIsNone(of: [patch.file] + (isInPlace ? [] : source.files), output)
    if !isPlan { try StagedOutput.checkReplaceable(output, .file, force: force || isInPlace) }
  }

  /// What a run would be refused for at the place it writes to.
  public var obstacle: Warning? { StagedOutput.obstacle(output, .file, force: force || isInPlace) }

  /// Identity and bytes of what will be there.
  public var result: (identity: Digest128, bytes: Int) {
    (patch.head(side.other).table.identity, patch.head(side.other).header.fileLength)
  }

  /// Writes the other file beside the place it is for, checks every byte of both, and puts it there.
  ///
  /// - Parameter progress: gets bytes done and bytes in all
  /// - Throws: every kind of `NibbleError`; what was there stays then
  public func run(progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> Report {
    try check()
    let started = monotonicSeconds()
    let staged = try StagedOutput(output, .file, force: force || isInPlace)
    var warnings: [Warning] = []
    do {
      // Another swap may have been faster.
      try checkIsThere()
      if isInPlace { warnings += try staged.keepPermissions(of: source.files[0]) }
      try write(to: staged, progress)
      try source.checkPadding()
      try source.checkUnchanged()
      try checkIsThere()
      try staged.publish()
    } catch {
      staged.discard()
      throw error
    }
    return Report(
      from: patch.head(side).table.identity, to: result.identity, changes: patch.report.changes.count, bytes: result.bytes,
      seconds: monotonicSeconds() - started, warnings: warnings)
  }

  private func checkIsThere() throws {
    guard isInPlace, !source.files[0].isSameFile(as: output) else { return }
    throw NibbleError.usage("\(path: file): was replaced by another process since it was opened; run the swap again")
  }

  private func write(to staged: StagedOutput, _ progress: @escaping (Int, Int) -> Void) throws {
    let (patch, side, view) = (patch, side, view)
    let target = patch.head(side.other)
    if let free = staged.freeBytes, free < target.header.fileLength {
      throw NibbleError.cannotWrite(
        "\(path: output): \(byteText(target.header.fileLength)) are needed, \(byteText(free)) are free")
    }
    let file = try staged.file(expectedSize: target.header.fileLength)
    try file.write(target.bytes, at: 0)
    // The zeros before each section. They are written with it: anywhere else they would keep a window of the output open.
    var end = target.bytes.count
    let padding = target.sections.map { _, section in
      defer { end = section.offset + section.storedLength }
      return end..<section.offset
    }
    let parts = patch.parts
    let chunks = PatchChunk.all(parts)
    let total = parts.reduce(0) { $0 + $1.length }
    let before = PatchCheck(parts, side, place: "\(path: source.path)")
    let after = PatchCheck(parts, side.other, place: "\(path: patch.path) makes of \(source.path)")
    var done = 0
    let counted = Unchecked({ (count: Int) in
      done += count
      progress(done, total)
    })
    try forEachChunk(chunks.count, threads: threads, ScratchPool()) { index, scratch, turnstile in
      let chunk = chunks[index]
      let part = parts[chunk.part]
      let old = scratch.bytes(0, chunk.count)
      try chunk.read(part, side, of: view, into: old)
      var new = old
      let changes = patch.changes(chunk.part)
      if changes {
        new = scratch.bytes(1, chunk.count)
        new.copyMemory(from: .init(old))
        try patch.apply(chunk.part, at: chunk.offset, to: new)
      }
      let result = Unchecked(UnsafeRawBufferPointer(new))
      try turnstile.pass(index) {
        try before.admit(chunk, .init(old))
        if changes { try after.admit(chunk, result.value) }
        counted.value(chunk.count)
      }
      if let (number, entry) = part[side.other].map({ ($0.number, $0.entry) }) {
        if chunk.offset == 0 {
          try file.write([UInt8](repeating: 0, count: padding[number].count), at: padding[number].lowerBound)
        }
        let bytes = UnsafeRawBufferPointer(rebasing: result.value[..<chunk.count(in: part, side.other)])
        try file.write(bytes, at: entry.offset + chunk.offset)
      }
    }
    try file.finish(length: target.header.fileLength)
  }
}

extension PatchFile {
  /// Which of the two block files begins with `head`.
  ///
  /// - Throws: `.adapterMismatch` if neither does, or if it has to be the first and is the second
  func side(of head: NblHead, _ file: String, fromFirst: Bool = false) throws -> PatchSide {
    if head.bytes == first.bytes { return .first }
    if head.bytes == second.bytes {
      guard fromFirst else { return .second }
      throw NibbleError(.adapterMismatch, "\(path: file): is what \(path) leads back to: there is nothing to undo")
    }
    let (one, other) = (first.table.identity, second.table.identity)
    let found = head.table.identity
    if found == one || found == other {
      throw NibbleError(
        .adapterMismatch,
        "\(path: file): holds the tensors \(found) that \(path) is for, but in another file: compressed otherwise, or with other "
          + "small files, metadata or provenance; the patch gives back files byte for byte and takes none but the two it was made of"
      )
    }
    throw NibbleError(
      .adapterMismatch, "\(path: file): has the identity \(found); \(path) is for \(one) and \(other)")
  }

  /// Whether the two files differ in `part`, by its bytes or by what their tables say of them.
  func changes(_ part: Int) -> Bool {
    let (a, b) = (parts[part].first?.entry, parts[part].second?.entry)
    return touches(part) || a?.checksum != b?.checksum || a?.storedLength != b?.storedLength
  }
}
