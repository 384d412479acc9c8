import ArgumentParser
import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant

struct ForwardCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "forward",
    abstract: "Run a model once on given ids and write its logits, for comparison with other programs.",
    discussion: """
      Tensors read: input_ids [batch, length]; optionally attention_mask, token_type_ids and labels (-100 is ignored; for models that \
      continue a text, labels align with input_ids and are shifted here; those of models that fill masks are not shifted). Models that read one \
      text and write another (T5) take labels, which are not shifted, or decoder_input_ids, or both. Tensors written: logits, and loss if there are labels; for models \
      without an output head, last_hidden_state and mean_pooled.
      """)

  @OptionGroup var model: ModelOptions
  @Option(help: ArgumentHelp("The input tensors.", valueName: "IN.safetensors")) var ids: String
  @Option(name: .shortAndLong, help: ArgumentHelp("The file to write.", valueName: "OUT.safetensors")) var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard output.lowercased().hasSuffix(".safetensors") else {
      throw NibbleError.usage("--output \(quoted(output)) does not end in .safetensors")
    }
    let started = monotonicSeconds()
    try StagedOutput.checkReplaceable(output, .file, force: force)
    let file = try ForwardFile(ids)
    let open = try OpenModel(model, common)
    let loss = try file.run(open.model, adapters: try open.all(), to: output, force: force)
    let seconds = monotonicSeconds() - started
    if common.json {
      try StandardOutput.print([
        "output": JSON(output), "tokens": JSON(file.tokens), "loss": loss.map { JSON($0) } ?? .null, "seconds": JSON(seconds),
        "open_seconds": JSON(open.seconds),
        "peak_memory": JSON(ResourceUse.now.peakBytes),
      ])
    } else if !common.quiet {
      var rows = [("output", output), ("tokens", "\(file.tokens)")]
      if let loss { rows.append(("loss", "\(loss)")) }
      if common.verbose { rows.append(("kernels", KernelChoice.current.summary)) }
      try Summary.printRows(rows + [("time", "\(decimal(seconds, 2)) s"), ("peak memory", byteText(ResourceUse.now.peakBytes))])
    }
  }
}
