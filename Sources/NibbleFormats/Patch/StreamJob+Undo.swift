import NibbleCore

extension StreamJob {
  /// Refuses what cannot be led back, before anything is written.
  func checkUndo() throws {
    guard let undo else { return }
    guard source.container == .nbl, output.format == .nbl else {
      throw NibbleError.usage(
        "--undo leads from one block file back to another: \(source.path) and \(output.path) are to be .nbl files both")
    }
    try checkIsNoInput(undo)
    guard undo != output.path, realPath(undo) != realPath(output.path) else {
      throw NibbleError.usage("\(undo) is the output; give --undo another name")
    }
    try StagedOutput.checkReplaceable(undo, .file, force: output.force)
  }

  /// Writes what leads from the finished output, by the name it has until it is published, back to the source.
  func writeUndo(of written: String, to staged: StagedOutput) throws -> PatchReport {
    var job = try PatchJob(from: try Checkpoint.openWritten(written), to: source, output: staged.destination)
    job.threads = threads
    return try job.write(to: staged)
  }
}
