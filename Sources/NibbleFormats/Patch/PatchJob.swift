import NibbleCore

/// What makes a patch of two block files.
public struct PatchJob: Sendable {
  /// The two ends. Either may be the one that is patched.
  public let from: Checkpoint
  public let to: Checkpoint
  /// Where to write.
  public let output: String
  /// Whether an existing output is replaced.
  public var force = false
  /// Threads to work with.
  public var threads = availableCores

  /// - Throws: `.usage` for checkpoints that are no block files
  public init(from: Checkpoint, to: Checkpoint, output: String) throws {
    for side in [from, to] where side.container != .nbl {
      throw NibbleError.usage(
        "\(path: side.path): patches are for block files (.nbl), which 'nibble quantize' and 'nibble convert' make")
    }
    self.init(any: from, to, output: output)
  }

  /// Of any checkpoints: as the block files that they would be.
  init(any from: Checkpoint, _ to: Checkpoint, output: String) { (self.from, self.to, self.output) = (from, to, output) }

  /// Everything that can be refused before anything is read or written.
  ///
  /// - Parameter isPlan: passes over a file that stands where the output goes; `obstacle` names it
  public func check(isPlan: Bool = false) throws {
    try StreamJob.checkIsNone(of: from.files + to.files, output)
    if !isPlan { try StagedOutput.checkReplaceable(output, .file, force: force) }
  }

  /// What a run would be refused for at the place it writes to.
  public var obstacle: Warning? { StagedOutput.obstacle(output, .file, force: force) }

  /// Compares the two and writes what differs.
  ///
  /// - Parameter progress: gets bytes done and bytes in all
  /// - Throws: every kind of `NibbleError`; nothing is left behind then
  public func run(progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> PatchReport {
    try check()
    let staged = try StagedOutput(output, .file, force: force)
    do {
      let report = try write(to: staged, progress)
      try staged.publish()
      return report
    } catch {
      staged.discard()
      throw error
    }
  }

  /// Writes all of the patch, to be published by the caller.
  func write(to staged: StagedOutput, _ progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> PatchReport {
    let started = monotonicSeconds()
    let (first, second) = (try NblView(from, threads: threads), try NblView(to, threads: threads))
    let heads = (first.head, second.head)
    let parts = PatchPart.all(heads.0, heads.1)
    let chunks = PatchChunk.all(parts)
    let total = parts.reduce(0) { $0 + $1.length }
    let writer = PatchWriter(try staged.file(expectedSize: total / 4), heads)
    let checks = (PatchCheck(parts, .first, place: "\(path: from.path)"), PatchCheck(parts, .second, place: "\(path: to.path)"))
    var done = 0
    let counted = Unchecked({ (count: Int) in
      done += count
      progress(done, total)
    })
    try forEachChunk(chunks.count, threads: threads, ScratchPool()) { index, scratch, turnstile in
      let chunk = chunks[index]
      let (a, b) = (scratch.bytes(0, chunk.count), scratch.bytes(1, chunk.count))
      try chunk.read(parts[chunk.part], .first, of: first, into: a)
      try chunk.read(parts[chunk.part], .second, of: second, into: b)
      let delta = scratch.bytes(5, chunk.count)
      delta.copyMemory(from: .init(a))
      PatchCoding.combine(delta, with: .init(b))
      let coded = try PatchCoding.encode(.init(delta), chunk, scratch)
      let start = try turnstile.pass(index) {
        try checks.0.admit(chunk, .init(a))
        try checks.1.admit(chunk, .init(b))
        counted.value(chunk.count)
        return writer.reserve(coded.spans)
      }
      try writer.write(coded.bytes, at: start)
    }
    for side in [from, to] {
      try side.checkPadding()
      try side.checkUnchanged()
    }
    let bytes = try writer.finish()
    return PatchReport(heads, parts, writer.spans, bytes: bytes, seconds: monotonicSeconds() - started)
  }
}
