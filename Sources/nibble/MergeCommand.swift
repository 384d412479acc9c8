import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

struct MergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Fold trained adapters into a base and say how much of them was kept.",
    discussion: """
      The output is of the base's own kind and types unless --format or --dtype say otherwise. For each tensor the share of the \
      adapter's change that survives rounding is measured; packed tensors that would keep less than half stop the merge with \
      exit code 6.
      """,
    aliases: ["fuse", "export-lora"])

  @Option(help: "The checkpoint to merge into.") var base: String
  @Option(
    name: .customLong("adapter"), parsing: .singleValue,
    help: ArgumentHelp("An adapter folder, by weight if wanted; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var adapters: [String]
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  @Option(help: "nbl, bnb, safetensors (default: by the ending of OUT, else the base's).")
  var format: OutputFormat?

  @Option(help: "Type of every float tensor of plain safetensors: bf16, fp16, fp32 (default: the type each tensor had).")
  var dtype: String?

  @Option(help: "How weights of a plain base are packed, where the output is: nf4, fp4.")
  var codec = "nf4"

  @Option(help: "Weights that share a scale: 32, 64, … 4096.")
  var blockSize = 64

  @Flag(inversion: .prefixedNo, help: "Code the scales to 8 bits too.")
  var doubleQuant = true

  @Option(help: "Corner cases as bitsandbytes has them: nearest, cuda, cpu.")
  var bnbRules: EncodingRules = .nearest

  @Option(help: "Stop with exit code 6 if a tensor keeps less of its change (default: 0.5 for packed tensors).")
  var minSurvival: Double?

  @Option(help: "Several adapters together: sum of the deltas (also cat), or linear as PEFT combines factors.")
  var method: MergeOptions.Method = .sum

  @Option(
    help: ArgumentHelp(
      "What becomes of packed tensors that would keep less: fail, 16bit, or shape (experimental), which chooses codes so that the change survives."
    ))
  var whenLost: WhenLost = .fail

  @Option(
    help: ArgumentHelp(
      "The adapter was trained on the 4-bit form of this base, so it is merged onto those values.",
      valueName: "nf4[:block=N][:no-double-quant]"))
  var trainedOn: String?

  @Flag(inversion: .prefixedNo, help: "Compare the output with the base and its adapters on random inputs.")
  var check = true

  @Flag(help: "Go on with NaN or infinite values instead of stopping with exit code 6.")
  var allowNonfinite = false

  func run() throws {
    guard !adapters.isEmpty else { throw NibbleError.usage("--adapter is needed: there is nothing to merge") }
    if let minSurvival, !minSurvival.isFinite { throw NibbleError.usage("--min-survival \(minSurvival) is no share") }
    let source = try Checkpoint.open(base)
    var options = MergeOptions(
      try AdapterFlag.parse(adapters).map { .init(try AdapterFile.open($0.path), weight: Double($0.weight)) })
    options.dtype = try dtype.map { name in
      guard case .cast(let known)? = CodecChoice(name) else {
        throw NibbleError.usage("--dtype \(quoted(name)) is not bf16, fp16 or fp32")
      }
      return known
    }
    guard let choice = CodecChoice(codec), case .packed = choice else {
      throw NibbleError.usage("--codec \(quoted(codec)) is not nf4 or fp4")
    }
    guard BlockCodec.blockSizes.contains(blockSize) else {
      throw NibbleError.usage("--block-size \(blockSize) is not one of \(BlockCodec.blockSizes)")
    }
    options.packing.codec = choice
    options.packing.blockSize = blockSize
    options.packing.doubleQuant = doubleQuant
    options.packing.bnbRules = bnbRules
    options.minimumSurvival = minSurvival
    options.method = method
    var values = source
    if let trainedOn {
      let packing = try QuantizeOptions(trainedOn: trainedOn)
      if !write.dryRun { values = try source.packedForm(packing, beside: write.output ?? "", threads: common.workers) }
    }
    let habit: OutputFormat = source.container == .nbl ? .nbl : source.packed.isEmpty ? .safetensors : .bnb
    options.commandLine = "nibble " + CommandLine.arguments.dropFirst().joined(separator: " ")
    let comparison = check ? MergeCheck() : nil
    var job = try StreamJob.merge(values, options, to: try write.spec(format, habit: habit), check: comparison)
    job.whenLost = whenLost
    if trainedOn != nil { job.otherInputs += source.files }
    if let trainedOn { job.warnings.append("the base's values are those of its 4-bit form, \(trainedOn)") }
    try write.run(job, common, verb: "merge", allowNonfinite: allowNonfinite) { _ in
      comparison.map { Summary.comparison($0.result) } ?? Summary.Extra()
    }
  }
}

struct UnmergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unmerge",
    abstract: "Take merged adapters out of a float model again, as far as rounding lets them.")

  @Option(help: "The merged checkpoint.") var merged: String
  @Option(
    name: .customLong("adapter"), parsing: .singleValue,
    help: ArgumentHelp("An adapter that was merged, with the weight it had; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var adapters: [String]
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard !adapters.isEmpty else { throw NibbleError.usage("--adapter is needed: there is nothing to take out") }
    let source = try Checkpoint.open(merged)
    let parts = try AdapterFlag.parse(adapters).map {
      MergeOptions.Weighted(try AdapterFile.open($0.path), weight: Double($0.weight))
    }
    let job = try StreamJob.unmerge(source, parts, to: try write.spec(nil, habit: .safetensors))
    try write.run(job, common, verb: "unmerge") { report in
      Summary.Extra(
        rows: [("the original", "likely within \(Summary.percent(report.originalDistance)) of the weights that were changed")],
        members: [("original_distance", JSON(report.originalDistance))])
    }
  }
}

extension WhenLost: ExpressibleByArgument {}
extension MergeOptions.Method: ExpressibleByArgument {}
