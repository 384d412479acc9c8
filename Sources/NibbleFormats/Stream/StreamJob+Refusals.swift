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
    let packed = items.filter { $0.target.encoding.isPacked }
    if output.format == .safetensors, let first = packed.first {
      let way =
        packed.contains { $0.target.encoding.bitsAndBytes.map { type(of: $0).bits } != 4 }
        ? "dequantize" : "use --format bnb, which keeps their codes, or dequantize"
      throw NibbleError.usage(
        "\(source.path): \(packed.count) packed tensors (\(quoted(first.target.name.text)), …) have no place in plain safetensors; "
          + way)
    }
    if output.compression.isOn {
      let tears = items.contains {
        !$0.target.encoding.codec.fillsFrames && $0.source.encoding != $0.target.encoding || $0.change != nil
      }
      guard !tears, whenLost != .promote, whenLost != .shape else {
        throw NibbleError.usage(
          "--compress does not go with int8, nor with merging; write the file and convert it with --compress")
      }
    }
    if output.format == .bnb { try checkLayout(packed.map(\.target)) }
    if let limit = maximumMemory, workingThreads < 1 {
      throw NibbleError.usage(
        "--max-memory \(byteText(limit)) is below the \(byteText(prediction(threads: 1).peakMemory)) this takes with one thread")
    }
  }

  /// A bitsandbytes checkpoint is of 8 bits or of 4, and has no place for other codecs.
  private func checkLayout(_ packed: [TensorTarget]) throws {
    func refuse(_ target: TensorTarget, _ why: String) -> NibbleError {
      .usage("\(source.path): \(quoted(target.name.text)) is \(why)")
    }
    var widest: (target: TensorTarget, bits: Int)?
    var bits: Set<Int> = []
    for target in packed {
      guard let codec = target.encoding.bitsAndBytes else {
        throw refuse(target, "\(target.encoding.name), which bitsandbytes has no place for")
      }
      if let why = codec.layoutRefusal(target) { throw refuse(target, why + ", which bitsandbytes has no place for") }
      let own = type(of: codec).bits
      bits.insert(own)
      if own > widest?.bits ?? 0 { widest = (target, own) }
    }
    if let widest, bits.count > 1 {
      throw refuse(
        widest.target,
        "\(widest.target.encoding.name), which has no place among the \(bits.min() ?? 0)-bit tensors of a bitsandbytes checkpoint")
    }
    guard whenLost != .promote || bits.isSubset(of: [8]) else {
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
