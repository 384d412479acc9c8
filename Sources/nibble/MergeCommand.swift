import ArgumentParser
import NibbleAdapters
import NibbleCalibration
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

struct MergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "merge",
    abstract: "Merge adapters into a base and report how much of their change survives.",
    discussion: """
      The output has the base's format and types unless --format or --dtype changes them. For each tensor, the share of the \
      adapter's change that survives rounding is measured; a packed tensor that would keep less than half stops the merge with \
      exit code 6, unless --when-lost rescues it.
      """,
    aliases: ["fuse", "export-lora"])

  @Option(name: [.long, .customShort("m")], help: "The checkpoint to merge into.") var base: String
  @OptionGroup var adapters: WeightedAdapters
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  @Option(help: "nbl, bnb, compressed-tensors, gguf, safetensors (default: by the ending of OUT, else the base's; nbl for --when-lost keep).")
  var format: OutputFormat?

  @OptionGroup var gguf: GgufFlags

  @Option(help: "Type of every float tensor of plain safetensors: bf16, fp16, fp32 (default: the type each tensor had).")
  var dtype: String?

  @Option(help: "Codec for the weights of a plain base, if the output is packed: \(Codecs.packing.map(\.name).joined(separator: ", ")) (default: nf4).")
  var codec: String?

  @OptionGroup var packing: PackingOptions
  @OptionGroup var text: TextOptions

  @Option(help: "Stop with exit code 6 if a tensor keeps less than this share of its change, from 0 to 1 (default: 0.5 for packed tensors).")
  var minSurvival: Double?

  @Option(
    help: ArgumentHelp(
      "How several adapters are combined: sum or cat, the exact sum of their changes; or linear, svd, ties, magnitude_prune, dare_linear, dare_ties, as in PEFT."
    ))
  var method: MergeOptions.Method = .sum

  @OptionGroup var combination: CombinationOptions

  @Option(
    help: ArgumentHelp(
      "What to do with packed tensors that would keep less: fail; promote writes them as int8; 16bit writes them in 16 bits; shape chooses codes so that the change survives; calibrated chooses the codes of every changed tensor by what the merged model does on a text (--calibration: rows of the task serve best); keep merges nothing and writes a folder with the base and the adapter."
    ))
  var whenLost: WhenLost = .fail

  @Option(
    help: ArgumentHelp(
      "Merge onto the values of this base's packed form, which the adapter was trained on: nf4, fp4:block=128:mse, int4:group=32:symmetric and so on; original: onto the base's own values.",
      valueName: "CODEC[:OPTION…]|original"))
  var trainedOn: String?

  @Option(
    help: ArgumentHelp(
      "Also write a patch that restores the base byte for byte ('unmerge --undo').",
      valueName: "FILE"))
  var undo: String?

  @Flag(help: "Merge adapters although they record another base.")
  var anyBase = false

  @Flag(inversion: .prefixedNo, help: "Compare the output with base and adapters on random inputs.")
  var check = true

  @Flag(help: "Run a short prompt through the base with its adapters and through the output, and compare.")
  var checkModel = false

  @Flag(help: "Allow NaN and infinite values, which otherwise stop with exit code 6.")
  var allowNonfinite = false

  func run() throws {
    let source = try Checkpoint.open(base)
    var write = write
    // A bundle is a folder, which may be named like one.
    if whenLost == .keep { write.output = write.output?.withoutTrailingSlashes }
    var job = MergeJob(source, try options(source), to: try write.spec(format, orElse: whenLost == .keep ? .nbl : source.ownFormat, gguf: gguf.options(for: source, threads: common.workers)))
    (job.trainedOn, job.anyBase, job.whenLost, job.undo) = (trainedOn, anyBase, whenLost, undo)
    (job.threads, job.plans, job.resumes) = (common.workers, write.dryRun, write.resume)
    job.check = check ? MergeCheck(allowsNonfinite: allowNonfinite) : nil
    let running = checkModel ? MergedModelCheck(job.options.adapters, threads: common.workers) : nil
    if let running { job.compare = { try running.run($0, written: $1) } }
    let (work, match) = try job.ready()
    func extra(_ report: StreamReport) -> Summary.Extra {
      var extra = job.check.map { Summary.comparison($0.result) } ?? Summary.Extra()
      if let found = running?.result { extra.add(found) }
      let values = match.trainedOn.map { "the values of its packed form, \($0)" } ?? "its values as they are"
      extra.rows.insert(("base", "\(base): \(values)" + (common.verbose ? "; identity \(report.sourceIdentity)" : "")), at: 0)
      extra.members.append(("trained_on", JSON(match.trainedOn)))
      return extra
    }
    switch work {
    case .stream(var stream):
      let found = try calibrate(&stream, write)
      try write.run(stream, common, verb: "merge", allowNonfinite: allowNonfinite, planned: found) {
        stream.removeKeptCodes()
        return found + extra($0)
      }
    case .bundle(_, let plan, _) where write.dryRun: try write.run(plan, common, verb: "merge")
    case .bundle(let bundle, _, let prepare): try write.run(bundle, check: job.check, common, allowNonfinite, prepare, extra)
    }
  }

  /// Decides the codes of changed tensors from a text, where that is asked for.
  private func calibrate(_ job: inout StreamJob, _ write: WriteOptions) throws -> Summary.Extra {
    guard whenLost == .calibrated else {
      try TextOptions.refuse(unless: "--when-lost calibrated")
      return Summary.Extra()
    }
    guard job.items.contains(where: { $0.change != nil && $0.target.encoding.kind.searchesScales }) else {
      throw NibbleError.usage("--when-lost calibrated chooses codes of \(EncoderFlag.codecNames), and nothing that changes is packed into them")
    }
    if write.output != nil { try job.check(isPlan: write.dryRun) }
    if write.resume, let output = write.output { try StreamJob.checkKeptCodes(of: output) }
    var calibration = try Calibrating(text, .calibrated, job.source, common, isPlan: write.dryRun)
    let (before, record) = (job.provenance, calibration.record)
    job.provenance = { before($0)?.setting("options", to: ["encoder": "calibrated", "calibration": record]) }
    job.resumes = write.resume
    return try calibration.apply(to: &job, maximumMemory: write.maxMemory.flatMap(parseBytes)).0
  }

  private func options(_ source: Checkpoint) throws -> MergeOptions {
    var options = MergeOptions(try adapters.open())
    options.dtype = try dtype.map { try DType(flag: $0) }
    let scheme = format?.scheme
    options.packing.codec = try CodecChoice(packing: codec ?? (scheme == nil ? "nf4" : "int4"))
    if codec != nil, !source.packed.isEmpty || trainedOn.map({ $0 != BaseMatch.original }) ?? false {
      throw NibbleError.usage("--codec is for plain bases; \(base) is merged into as it is packed")
    }
    if let encoder = packing.encoder, encoder.readsText {
      throw NibbleError.usage("--encoder \(encoder.rawValue) is for quantize; merge takes absmax, mse, mse-signed and icq")
    }
    try packing.apply(to: &options.packing)
    if let scheme, source.packed.isEmpty { packing.apply(scheme, to: &options.packing) }
    options.minimumSurvival = minSurvival
    try combination.apply(method, to: &options)
    if checkModel, !method.isSum {
      throw NibbleError.usage("--check-model attaches adapters as they are, which \(method.rawValue) does not merge")
    }
    // An output that was resumed is the same as one that was not.
    options.commandLine = "nibble " + CommandLine.arguments.dropFirst().filter { $0 != "--resume" }.joined(separator: " ")
    return options
  }
}

extension WriteOptions {
  /// Writes a bundle and prints its summary.
  fileprivate func run(
    _ bundle: KeptBundle, check: MergeCheck?, _ common: CommonOptions, _ allowNonfinite: Bool,
    _ prepare: (inout StreamJob) -> Void, _ extra: (StreamReport) -> Summary.Extra
  ) throws {
    let result = try bundle.write(
      check: check,
      { job in
        prepare(&job)
        job.threads = common.workers
        job.maximumMemory = maxMemory.flatMap(parseBytes)
        job.allowsNonfinite = allowNonfinite
      }, progress: common.progress("merge"))
    Progress.clear()
    common.warn(result.report.warnings)
    var more = extra(result.report)
    more.members.append(("kept", JSON(result.lost)))
    if !result.lost.isEmpty {
      more.rows.removeAll { $0.0 == "check" }
      more.rows.append(
        (
          "kept apart",
          "\(result.lost.count) tensors would lose their change, so nothing is merged: use --base \(result.job.output.path) --adapter \(output ?? "")"
        ))
    }
    try Summary.printReport(
      result.report, result.job, json: common.json, verb: "merge", verbose: common.verbose, extra: more)
  }
}

/// `--adapter`, as merging takes it.
struct WeightedAdapters: ParsableArguments {
  @Option(
    name: .customLong("adapter"), parsing: .singleValue,
    help: ArgumentHelp("An adapter folder, with a weight if it is not 1; may be repeated.", valueName: "DIR[:WEIGHT]"))
  var texts: [String] = []

  func open() throws -> [MergeOptions.Weighted] {
    guard !texts.isEmpty else { throw NibbleError.usage("--adapter is needed") }
    return try Self.open(texts)
  }

  static func open(_ texts: [String]) throws -> [MergeOptions.Weighted] {
    try AdapterFlag.parse(texts).map { .init(try AdapterFile.open($0.path), weight: Double($0.weight)) }
  }
}

struct UnmergeCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "unmerge",
    abstract: "Take merged adapters out of a model: up to rounding, or bit for bit with a patch.")

  @Option(help: "The merged checkpoint.") var merged: String
  @OptionGroup var adapters: WeightedAdapters
  @Option(help: ArgumentHelp("The patch that 'merge --undo' wrote, instead of adapters.", valueName: "FILE")) var undo: String?
  @OptionGroup var write: WriteOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    if let undo {
      guard adapters.texts.isEmpty else {
        throw NibbleError.usage("--undo restores what was there before; it takes no --adapter")
      }
      guard let output = write.output else { throw NibbleError.usage("Missing expected argument '--output <output>'") }
      let source = try Checkpoint.open(merged)
      guard source.container == .nbl else {
        let spec = try write.spec(nil, orElse: source.folderFormat)
        return try write.run(try StreamJob.undo(source, try PatchFile(undo), to: spec), common, verb: "unmerge")
      }
      common.warnIgnored(["--resume", "--max-memory", "--max-shard-size"], "a block file is restored in place of writing a new one")
      var job = try SwapJob(merged, try PatchFile(undo), output: output, fromFirst: true)
      job.force = write.force
      return try PatchSummary.run(job, verb: "unmerge", dryRun: write.dryRun, common)
    }
    let source = try Checkpoint.open(merged)
    let job = try StreamJob.unmerge(source, try adapters.open(), to: try write.spec(nil, orElse: .safetensors))
    try write.run(job, common, verb: "unmerge") { report in
      Summary.Extra(
        members: [("original_distance", JSON(report.originalDistance))])
    }
  }
}

extension WhenLost: ExpressibleByArgument {}
