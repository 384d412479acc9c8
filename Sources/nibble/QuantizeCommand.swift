import ArgumentParser
import NibbleCore
import NibbleFormats
import NibbleQuant

struct QuantizeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "quantize",
    abstract: "Pack a checkpoint to 4 bits.",
    discussion: """
      Without rules, the linear layers of known architectures are packed, as transformers packs them with bitsandbytes. For unknown \
      architectures, every 2-D weight is packed unless its name marks it as an embedding or an output head. --tensor and --keep \
      apply in the order given; the first whose pattern occurs in a tensor's name decides. '@FILE' reads one rule per line.
      """)

  @Argument(help: "The checkpoint.") var model: String
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  @Option(
    help:
      "How weights are coded: \(CodecChoice.names.map(\.name).joined(separator: ", ")) (default: nf4; int4 for compressed-tensors, gptq and mlx)."
  )
  var codec: String?

  @OptionGroup var packing: PackingOptions
  @OptionGroup var calibrating: CalibratingOptions
  @OptionGroup var correction: CorrectionOptions
  @OptionGroup var budget: BudgetOptions

  @Option(
    name: .customLong("tensor"),
    help: ArgumentHelp("Pack the tensors whose name matches with this codec.", valueName: "REGEX=CODEC[:block=N|:group=N]"),
    transform: { RuleText(.rule, $0) })
  var tensorRules: [RuleText] = []

  @Option(
    name: .customLong("keep"), help: ArgumentHelp("Leave the tensors whose name matches unpacked.", valueName: "REGEX"),
    transform: { RuleText(.keep, $0) })
  var keepRules: [RuleText] = []

  @Option(help: "nbl, bnb, compressed-tensors, gptq, mlx, onnx (weights for MatMulBnb4), gguf (default: by the ending of OUT, else nbl).")
  var format: OutputFormat?

  @OptionGroup var gguf: GgufFlags

  @Option(
    help: ArgumentHelp(
      "Compress the block file: none, zstd or zstd:LEVEL. A compressed file cannot be used in place.", valueName: "method"))
  var compress = "none"

  @Option(
    help: ArgumentHelp(
      "Name of the published model, which adapters trained on the output record as their base (default: from the Hugging Face cache or config.json).",
      valueName: "ORG/NAME[@REVISION]"))
  var baseName: String?

  @Flag(help: "Allow NaN and infinite values, which otherwise stop with exit code 6.")
  var allowNonfinite = false

  @Option(help: "Stop with exit code 6 if a packed tensor's relative error is above this.")
  var maxError: Double?

  func run() throws {
    if try write.spec(format, orElse: .nbl).format.choosesTypes { return try runGguf() }
    let ggufOptions = try gguf.options(for: nil, threads: common.workers)
    if ggufOptions.isGiven { try write.spec(format, orElse: .nbl, gguf: ggufOptions).checkOptions() }
    var options = QuantizeOptions()
    let codec = codec ?? (format?.scheme == nil ? "nf4" : "int4")
    guard let choice = CodecChoice(codec) else {
      throw NibbleError.usage("--codec \(quoted(codec)) is not one of \(CodecChoice.names.map(\.name).joined(separator: ", "))")
    }
    if let maxError, !(maxError >= 0) { throw NibbleError.usage("--max-error \(maxError) is not a number of at least 0") }
    options.codec = choice
    options.insistsOnCodec = self.codec != nil
    if let baseName { _ = try ModelOrigin(baseName) }
    try packing.apply(to: &options)
    let scheme = format?.scheme
    if let scheme { packing.apply(scheme, to: &options) }
    options.rules = try RuleText.rules(tensorRules + keepRules)
    try packing.checkUse(of: [choice] + options.rules.map(\.choice) + (budget.isGiven ? [.codec(.int4)] : []))
    var spec = try write.spec(format, orElse: .nbl)
    guard spec.format.holdsCodes || format == nil else {
      throw NibbleError.usage("quantize writes nbl or bnb; plain safetensors hold no packed tensors")
    }
    if !spec.format.holdsCodes { spec.format = .bnb }
    spec.compression = try compression(spec.format)
    let source = try Checkpoint.open(model)
    let kinds = try StreamJob.decide(source, options).compactMap { if case .codec(let kind) = $0.choice { kind } else { nil } }
    let chosen = budget.isGiven ? try budget.apply(to: &options, source, spec, calibrating, common, force: write.force, isPlan: write.dryRun) : Summary.Extra()
    let flag = packing.encoder ?? (scheme == nil ? .absmax : .auto)
    guard let encoder = try flag.ofText(source, kinds, calibrating.text) else {
      if !budget.isGiven { try calibrating.refuse(flag) }
      options.loftq = correction.codingSteps.flatMap { steps in correction.rank.map { ($0, steps) } }
      var job = try StreamJob.quantize(source, options, to: spec)
      let why = flag == .auto ? [("encoder", "\(job.encoder.rawValue): no model that runs here has a text to calibrate with")] : []
      guard correction.rank != nil, !write.dryRun else { return try run(job, chosen + Summary.Extra(rows: why)) }
      if write.output != nil { try job.check() }
      try correction.check(write.output, force: write.force)
      let (summary, corrections) = try correction.apply(to: &job, in: write.output.map { correction.folder(beside: $0) } ?? "", common)
      return try run(job, chosen + Summary.Extra(rows: why) + summary) { path in
        try correction.write(corrections, beside: path, force: write.force, threads: common.workers)
      }
    }
    guard correction.loftqIter == nil else { throw NibbleError.usage("--loftq-iter is for encoders without a text, and --encoder \(encoder.rawValue) reads one") }
    if write.resume, let output = write.output { try StreamJob.checkKeptCodes(of: output) }
    var calibration = try Calibrating(calibrating.text, seed: calibrating.seed, encoder, source, common, isPlan: write.dryRun)
    options.calibration = (encoder.rawValue, calibration.record)
    var job = try StreamJob.quantize(source, options, to: spec)
    job.resumes = write.resume
    // Whatever can stop the job does so before minutes of work.
    if write.output != nil { try job.check() }
    try correction.check(write.output, force: write.force)
    let (summary, corrections) = try calibration.apply(
      to: &job, correction: correction.rank, in: write.output.map { correction.folder(beside: $0) } ?? "",
      maximumMemory: write.maxMemory.flatMap(parseBytes))
    try run(job, chosen + summary) { path in
      job.removeKeptCodes()
      if correction.rank != nil { try correction.write(corrections, beside: path, force: write.force, threads: common.workers) }
    }
  }

  /// - Parameter then: called with the output's path when it is there
  private func run(_ job: StreamJob, _ extra: Summary.Extra, then: (String) throws -> Void = { _ in }) throws {
    var job = job
    job.maximumError = maxError
    if let baseName { job.origin = try ModelOrigin(baseName) }
    try write.run(job, common, verb: "quantize", allowNonfinite: allowNonfinite, planned: extra) { _ in
      try then(job.output.path)
      return extra
    }
  }

  /// Types of ggml's have options of their own.
  private func runGguf() throws {
    let others = Arguments.given([
      "--codec", "--block-size", "--tile", "--double-quant", "--no-double-quant", "--group-size", "--symmetric", "--zeros", "--bnb-rules",
      "--target-bits", "--target-size", "--correction", "--compress", "--base-name",
    ])
    if let flag = others.first { throw NibbleError.usage("\(flag) does not go with GGUF files, whose types --gguf-type and --tensor choose") }
    if let maxError, !(maxError >= 0) { throw NibbleError.usage("--max-error \(maxError) is not a number of at least 0") }
    let source = try Checkpoint.open(model)
    var options = try gguf.options(for: source, threads: common.workers)
    if options.type == nil { options.type = "q4_k_m" }
    options.rules = try RuleText.ggufRules(tensorRules + keepRules)
    let weighing = try GgufWeighing(packing.encoder, calibrating, hasFile: gguf.imatrix != nil)
    let extra = try weighing.apply(to: &options, source, common, isPlan: write.dryRun)
    var job = try StreamJob.convert(source, to: try write.spec(format, orElse: .gguf, gguf: options))
    (job.maximumError, job.refusesNonfinite) = (maxError, true)
    let found = try extra + weighing.apply(to: &job, write, common)
    try write.run(job, common, verb: "quantize", allowNonfinite: allowNonfinite, planned: found) { _ in
      job.removeKeptCodes()
      return found
    }
  }

  private func compression(_ format: OutputFormat) throws -> CompressionChoice {
    try CompressionChoice(flag: compress, format)
  }
}
