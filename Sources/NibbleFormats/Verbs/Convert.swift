import NibbleCore
import NibbleQuant

extension StreamJob {
  /// A job that moves `source` into another container without touching a code or a weight. Blocks of a GGUF file that have no place in
  /// that container become the float32 numbers that they stand for.
  public static func convert(_ source: Checkpoint, to output: OutputSpec) throws -> StreamJob {
    if output.format.choosesTypes { try source.refuseUnknownQuantization() }
    let items = source.tensors.map { Item(source: $0, target: TensorTarget(keeping: $0, in: output.format.container)) }
    var job = StreamJob(source, items: items, output: output)
    job.refusesNonfinite = false
    let known = source.provenance
    // What says how the content came to be stays; converting changes no content.
    job.provenance = { identity in
      known ?? ["tool": JSON("nibble " + nibbleVersion), "verb": "convert", "source": JSON(identity.description)]
    }
    try output.format.container.settle(&job)
    return job
  }

  /// A job that turns packed tensors back into plain ones.
  ///
  /// - Parameter dtype: for every float tensor; nil for the type each one had
  /// - Throws: `.badInput` for codes nibble does not decode
  public static func dequantize(_ source: Checkpoint, dtype: DType?, to output: OutputSpec) throws -> StreamJob {
    try source.refuseUnknownQuantization()
    guard !output.format.holdsCodes else {
      throw NibbleError.usage("dequantize writes safetensors, not \(output.format.rawValue)")
    }
    let items = source.tensors.map { tensor in
      var target = TensorTarget(keeping: tensor)
      if tensor.isPacked { target.becomePlain(tensor) }
      if let dtype, tensor.dtype.isFloat { target.dtype = dtype }
      return Item(source: tensor, target: target)
    }
    var job = StreamJob(source, items: items, output: output)
    job.dtypeName = QuantState.dtypes.first { $0.dtype == dtype }?.name
    if source.packed.isEmpty { job.warnings.append(.init(.unused, "\(path: source.path): no tensor is packed")) }
    return job
  }
}

extension Checkpoint {
  /// Throws for weights that are quantized in ways whose values nibble cannot read.
  func refuseUnknownQuantization() throws {
    let quantization = config?["quantization_config"]
    if quantization?["load_in_8bit"]?.bool == true,
      let lone = tensors.first(where: { $0.dtype == .i8 && !$0.isPacked && RowLayout.module(of: $0.name.text) != nil })
    {
      throw NibbleError.badInput("\(path: path): LLM.int8 weight \(subject: lone.name.text): its scales are missing")
    }
    // Block files hold the numbers of other programs' codes, whatever the configuration they came with says.
    if container != .nbl, let method = quantization?["quant_method"]?.string, method != "bitsandbytes",
      !Checkpoint.readsWeights(quantizedBy: method) || packed.isEmpty
    {
      throw NibbleError.badInput("\(path: path): quantized with \(quoted(method)), which nibble does not read")
    }
  }
}
