import NibbleCore

extension StreamJob {
  /// Everything that can be refused before the output is touched.
  public func check() throws {
    try checkIsNoInput(output.path)
    try StagedOutput.checkReplaceable(output.path.withoutTrailingSlashes, shape, force: output.force)
    if encoder.searches, rules != .nearest {
      throw NibbleError.usage("--encoder \(encoder.rawValue) chooses its own scales; it goes with --bnb-rules nearest only")
    }
    try checkUndo()
    let packed = items.filter { $0.target.encoding != .plain }
    if output.format == .safetensors, let first = packed.first {
      let way =
        packed.contains { $0.target.encoding == .int8 }
        ? "dequantize" : "use --format bnb, which keeps their codes, or dequantize"
      throw NibbleError.usage(
        "\(source.path): \(packed.count) packed tensors (\(quoted(first.target.name.text)), …) have no place in plain safetensors; "
          + way)
    }
    if output.compression.isOn {
      let makesRows = items.contains { $0.target.encoding == .int8 && $0.source.encoding != .int8 || $0.change != nil }
      guard !makesRows, whenLost != .promote, whenLost != .shape else {
        throw NibbleError.usage(
          "--compress does not go with int8, nor with merging; write the file and convert it with --compress")
      }
    }
    if output.format == .bnb { try checkRows(packed.map(\.target)) }
    if let limit = maximumMemory, workingThreads < 1 {
      throw NibbleError.usage(
        "--max-memory \(byteText(limit)) is below the \(byteText(prediction(threads: 1).peakMemory)) this takes with one thread")
    }
  }

  /// A bitsandbytes checkpoint is of 8 bits or of 4, and names what it holds of 8 after the module.
  private func checkRows(_ packed: [TensorTarget]) throws {
    let rows = packed.filter { $0.encoding == .int8 }
    if let first = rows.first, rows.count < packed.count {
      throw NibbleError.usage(
        "\(source.path): \(quoted(first.name.text)) is int8, which has no place among the 4-bit tensors of a bitsandbytes checkpoint"
      )
    }
    if let other = rows.first(where: { RowLayout.module(of: $0.name.text) == nil }) {
      throw NibbleError.usage(
        "\(source.path): \(quoted(other.name.text)) is int8 and not called '….weight', which bitsandbytes has no place for")
    }
    guard whenLost != .promote || packed.allSatisfy({ $0.encoding == .int8 }) else {
      throw NibbleError.usage(
        "--when-lost promote writes int8 tensors, which have no place among a bitsandbytes checkpoint's 4-bit ones; use 16bit")
    }
  }

  /// Throws if writing `output` would replace something that is read.
  package func checkIsNoInput(_ output: String) throws {
    try Self.checkIsNone(of: otherInputs + source.files + source.smallFiles.compactMap(\.section.inputFile), output)
    if PathKind(output) == .folder, PathKind(source.path) == .folder, isSameFolder(output, source.path) {
      throw NibbleError.usage("\(output) is the input; give another output")
    }
  }

  /// Throws if `output` is one of `inputs`, or a folder that one lies in: a folder is replaced whole.
  package static func checkIsNone(of inputs: [InputFile], _ output: String) throws {
    let path = output.withoutTrailingSlashes
    if inputs.contains(where: { $0.isSameFile(as: path) }) {
      throw NibbleError.usage("\(output) is an input; give another output")
    }
    guard PathKind(path) == .folder else { return }
    // By whatever name.
    let inside = try namesInFolder(path).first { name in inputs.contains { $0.isSameFile(as: path + "/" + name) } }
    if let inside { throw NibbleError.usage("\(output) holds the input \(quoted(inside)); give another output") }
  }
}

extension StoredSection {
  var inputFile: InputFile? { if case .file(let file, _) = source { file } else { nil } }
}
