import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats

struct CalibrateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "calibrate",
    abstract: "Write down what a model's layers take on a text, for packing, merging and training without it.",
    discussion: """
      The output holds second moments of the inputs of every linear layer. 'quantize --encoder calibrated --statistics FILE', with \
      --correction or without, 'quantize --imatrix FILE' for GGUF files, and 'merge --when-lost calibrated --statistics FILE' read it in place of a text. With a text they do \
      better still: they also see what earlier layers' codes do to later ones. An output that ends in .gguf becomes the importance \
      matrix that llama.cpp's own llama-quantize reads. 'finetune --init-lora eva' and 'corda' begin by it.
      """)

  @Argument(help: "The checkpoint.") var model: String

  @Option(name: [.customLong("data"), .customLong("calibration")], help: TextOptions.help)
  var data: [String] = []

  @Option(name: [.customLong("tokens"), .customLong("calibration-tokens")], help: "Tokens to take of it.")
  var tokens = 65536

  @Option(help: "Seed of the text that the model writes.")
  var seed: UInt64 = 0

  @Option(help: TextOptions.ownHelp)
  var ownText: Double?

  @Option(help: TextOptions.precisionHelp)
  var computeDtype: Compute = .f32

  @Flag(help: "Keep only the energy of each input: a small file, which knows nothing of how inputs go together.")
  var diagonal = false

  @Option(name: .shortAndLong, help: "The file to write.") var output: String
  @Flag(help: "Replace an existing output.") var force = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard (1...1 << 28).contains(tokens) else { throw NibbleError.usage("--tokens must be from 1 to \(1 << 28)") }
    try TextOptions.check(ownText: ownText, data)
    try StagedOutput.checkReplaceable(output, .file, force: force)
    let source = try Checkpoint.open(model)
    try StreamJob.checkIsNone(of: source.files, output)
    var options = TextOptions()
    (options.calibration, options.calibrationTokens, options.computeDtype) = (data, tokens, computeDtype)
    options.ownText = ownText
    // Before the model writes a text, or one is run.
    if output.lowercased().hasSuffix(".gguf") { try Importance.check(source) }
    let text = try ModelText(options, seed: seed, source, common, threads: common.workers)
    if output.lowercased().hasSuffix(".gguf") { return try writeImportance(text, source) }
    let pass = try StatisticsPass(text.model, text.text.windows, diagonal: diagonal)
    let report = try pass.run(to: output, force: force, threads: common.workers, progress: common.progress("calibrate"))
    Progress.clear()
    common.warn(source.warnings + report.warnings)
    try print(report, text)
  }

  /// The file that llama-quantize reads.
  private func writeImportance(_ text: ModelText, _ source: Checkpoint) throws {
    let started = monotonicSeconds()
    let importance = try Importance(text, source, common)
    let (bytes, unnamed) = try importance.write(to: output, of: source, force: force)
    var warnings = source.warnings
    if unnamed > 0 { warnings.append(.init(.compatibility, "\(path: output): llama.cpp has no name for \(unnamed) matrices, which are left out")) }
    common.warn(warnings)
    let (count, seconds) = (importance.count - unnamed, monotonicSeconds() - started + text.seconds)
    guard !common.json else {
      return try StandardOutput.print(
        JSON.object([
          ("output", JSON(output)), ("layers", JSON(count)), ("text", text.record), ("bytes", JSON(bytes)), ("warnings", JSON(warnings)),
          ("seconds", JSON(seconds)),
        ]).text())
    }
    try Summary.printRows([
      ("wrote", "\(output): llama.cpp's importance matrix of \(count) layers, \(byteText(bytes)), \(decimal(seconds, 1)) s"), ("text", text.account),
    ])
  }

  private func print(_ report: StatisticsPass.Report, _ text: ModelText) throws {
    guard !common.json else {
      return try StandardOutput.print(
        JSON.object([
          ("output", JSON(output)), ("layers", JSON(report.layers)), ("tensors", JSON(report.tensors)), ("diagonal", .bool(diagonal)),
          ("text", text.record), ("capped_tokens", JSON(report.mostCapped.tokens)), ("bytes", JSON(report.bytes)),
          ("warnings", JSON(report.warnings)), ("seconds", JSON(report.seconds + text.seconds)),
        ]).text())
    }
    var rows = [
      (
        "wrote",
        "\(output): \(diagonal ? "energies" : "moments") of the inputs of \(report.layers) layers, \(byteText(report.bytes)), "
          + "\(decimal(report.seconds + text.seconds, 1)) s"
      ),
      ("text", text.account),
    ]
    if report.mostCapped.tokens > 0 {
      rows.append(("massive activations", "capped, most before \(oneLine(report.mostCapped.name)): \(report.mostCapped.tokens) tokens"))
    }
    try Summary.printRows(rows)
  }
}
