import NibbleCore

extension StreamJob {
  /// Refuses what cannot be led back, before anything is written.
  func checkUndo() throws {
    guard let undo = changing.undo else { return }
    guard Self.kind(source) == output.format.rawValue else {
      throw NibbleError.usage(
        "\(.undo) leads back to a base of the output's own kind: \(path: source.path) is \(Self.kind(source)), the output \(output.format.rawValue)"
      )
    }
    guard !source.isStoredAnew else {
      throw NibbleError.usage(
        "\(.undo) leads back to the same tensors, and \(path: source.path) is of a layout that is read and not written (AWQ, or GPTQ with zero points less one)")
    }
    try checkIsNoInput(undo)
    let folder = undo.lastIndex(of: "/").map { String(undo[..<$0]) } ?? "."
    guard undo != output.path, realPath(undo) != realPath(output.path), realPath(folder) != realPath(output.path) else {
      throw NibbleError.usage("\(path: undo) is the output, or in it; give \(.undo) another place")
    }
  }

  /// Writes what leads from the finished output, by the name it has until it is published, back to the source.
  func writeUndo(of written: String, to staged: StagedOutput) throws -> PatchReport {
    // The base as it lies there, without what the adapters made of it.
    let base = try Checkpoint.open(source.path)
    for file in base.files where !source.files.contains(where: { $0.isSameFile(as: file.path) }) {
      throw NibbleError.badInput("\(path: file.path): was replaced while it was read")
    }
    var job = PatchJob(any: try Checkpoint.openWritten(written), base, output: staged.destination)
    job.threads = threads
    return try job.write(to: staged)
  }

  private static func kind(_ checkpoint: Checkpoint) -> String {
    checkpoint.ownFormat.rawValue
  }

  /// A job that turns a merged checkpoint of safetensors back into the base that `undo` leads to: every tensor and small file byte for
  /// byte.
  ///
  /// - Throws: `.adapterMismatch` for a checkpoint that `undo` does not begin with
  public static func undo(_ merged: Checkpoint, _ undo: PatchFile, to output: OutputSpec) throws -> StreamJob {
    var job = try convert(try merged.patched(by: undo, fromFirst: true), to: output)
    job.otherInputs = [undo.file]
    return job
  }
}
