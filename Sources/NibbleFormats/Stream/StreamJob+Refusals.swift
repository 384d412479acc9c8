import NibbleCore

extension StreamJob {
  /// Everything that can be refused before the output is touched.
  ///
  /// - Parameter isPlan: passes over files that stand where the output goes; `obstacles` names them
  public func check(isPlan: Bool = false) throws {
    try checkIsNoInput(output.path)
    if !isPlan { for (path, shape) in places { try StagedOutput.checkReplaceable(path, shape, force: output.force) } }
    if encoder.searches, rules != .nearest {
      throw NibbleError.usage("\(.encoder, encoder.rawValue) chooses its own scales; it goes with \(.bnbRules, "nearest") only")
    }
    try checkUndo()
    try output.format.container.check(self)
    if let limit = maximumMemory, workingThreads < 1 {
      throw NibbleError.usage(
        "\(.maxMemory, byteText(limit)) is below the \(byteText(prediction(threads: 1).peakMemory)) this takes with one thread")
    }
  }

  /// What a run would be refused for at the places it writes to.
  public var obstacles: [Warning] { places.compactMap { StagedOutput.obstacle($0.path, $0.shape, force: output.force) } }

  private var places: [(path: String, shape: StagedOutput.Shape)] {
    [(output.path.withoutTrailingSlashes, shape)] + (changing.undo.map { [($0, .file)] } ?? [])
  }

  /// Throws if writing `output` would replace something that is read.
  package func checkIsNoInput(_ output: String) throws {
    try Self.checkIsNone(of: otherInputs + source.files + source.smallFiles.compactMap(\.inputFile), output)
    if PathKind(output) == .folder, PathKind(source.path) == .folder, isSameFolder(output, source.path) {
      throw NibbleError.usage("\(path: output) is the input; give another output")
    }
  }

  /// Throws if `output` is one of `inputs`, or a folder that one lies in: a folder is replaced whole.
  package static func checkIsNone(of inputs: [InputFile], _ output: String) throws {
    let path = output.withoutTrailingSlashes
    if inputs.contains(where: { $0.isSameFile(as: path) }) {
      throw NibbleError.usage("\(path: output) is an input; give another output")
    }
    guard PathKind(path) == .folder else { return }
    // By whatever name.
    let inside = try namesInFolder(path).first { name in inputs.contains { $0.isSameFile(as: path + "/" + name) } }
    if let inside { throw NibbleError.usage("\(path: output) holds the input \(subject: inside); give another output") }
  }
}

