import ArgumentParser
import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTokenizers
import NibbleTraining

struct FinetuneCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "finetune",
    abstract: "Train a LoRA adapter on a packed or a float base, and write it as PEFT does.",
    discussion: """
      DATA is a folder with train.jsonl (and valid.jsonl), a file of rows (JSON Lines or one JSON array), or a .txt file. The keys of a \
      row say what it is: {"text"}; {"prompt", "completion"}, as texts or as lists of messages; {"instruction", "input", "output"}; \
      {"messages"}; {"conversations"} (ShareGPT); {"text", "label"}; {"text", "labels"}; {"input_ids", "labels"}. Only answers are \
      learned, unless --train-on-prompt is given.
      """)

  @Option(name: [.long, .customShort("m")], help: "The model to train on: a folder, an .nbl file, a bitsandbytes folder.") var base: String
  @Option(help: "Rows to train on: a folder with train.jsonl, or a file.") var data: String
  @Option(help: "Rows to validate on (default: the folder's valid.jsonl).") var valid: String?
  @Option(name: .shortAndLong, help: "The folder to write: an adapter, or a model with --method full.") var output: String?
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Say what it takes and train nothing.") var dryRun = false
  @Option(help: ArgumentHelp("Refuse a run that takes more memory (default: all there is).", valueName: "bytes")) var maxMemory:
    String?
  @Option(help: "lora, rslora, dora; full for every weight of a float base.") var method: AdapterOptions.Method = .lora
  @Option(name: [.customLong("lora-r"), .customLong("r"), .customLong("rank")], help: "Rank of the factors.") var rank = 8
  @Option(name: [.customLong("lora-alpha"), .customLong("alpha")], help: "Changes are scaled by alpha / rank.") var alpha = 16.0
  @Option(help: "all-linear, attention, mlp, names divided by commas, or a pattern.") var targetModules = "all-linear"
  @Option(help: "Modules trained whole, divided by commas.") var modulesToSave: String?
  @Option(help: "Biases trained too: none, all, lora_only.") var bias: AdapterConfig.Bias = .none
  @Option(help: "How factors begin: kaiming (PEFT's default) or gaussian.") var initLora: AdapterOptions.Start = .kaiming
  @Option(help: "Classes of a new head, for a base that has none or another.") var numLabels: Int?
  @Option(
    help: ArgumentHelp(
      "What the classes of a new head are called, divided by commas, or one a line in a file.", valueName: "NAMES|@FILE"))
  var labels: String?
  @Option(help: "What a new head looks at: mean, first, last.") var pooling: NewHead.Pooling = .mean
  @Flag(help: "With a new head: a text may have several classes.") var manyLabels = false
  @Option(
    parsing: .singleValue, help: ArgumentHelp("Rank of modules a pattern is found in; may be repeated.", valueName: "REGEX=N"))
  var rankPattern: [String] = []
  @Option(parsing: .singleValue, help: ArgumentHelp("The same for alpha.", valueName: "REGEX=X"))
  var alphaPattern: [String] = []
  @Option(help: "Train this adapter on; rank, alpha, method and targets are its own.") var initAdapter: String?
  @Flag(help: "Take it though it was trained on another base.") var anyBase = false
  @Option(help: "Steps, whatever the epochs say.") var maxSteps: Int?
  @Option(help: "How often the rows are gone through.") var epochs = 1.0
  @Option(help: "Rows of a micro-batch.") var batchSize = 8
  @Option(help: "Micro-batches of a step.") var gradientAccumulationSteps = 1
  @Option(help: "Tokens of a row at most; the rest is cut off and counted.") var maxLength: Int?
  @Option(help: "The highest learning rate.") var learningRate = 2e-4
  @Option(help: "LoRA+: second factors are trained with this many times the rate.") var loraplusRatio = 1.0
  @Option(help: "constant, linear, cosine.") var lrScheduler: Schedule.Kind = .linear
  @Option(help: "Steps over which the rate rises.") var warmupSteps: Int?
  @Option(help: "The same as a share of all steps.") var warmupRatio = 0.0
  @Option(help: "adamw, adam, sgd.") var optimizer: OptimizerOptions.Kind = .adamw
  @Option(name: .customLong("adam-beta1"), help: "What Adam keeps of a gradient's mean each step.") var beta1 = 0.9
  @Option(name: .customLong("adam-beta2"), help: "And of its square's.") var beta2 = 0.999
  @Option(name: .customLong("adam-epsilon"), help: "What Adam adds to a root before it divides by it.") var epsilon = 1e-8
  @Option(help: "Of sgd.") var momentum = 0.0
  @Option(help: "Decay of weights.") var weightDecay = 0.0
  @Option(help: "Longer gradients are shortened to this; 0 for never.") var maxGradNorm = 1.0
  @Option(help: "Seed for the order of rows and the initial factors.") var seed = 0
  @Flag(help: "Rows in the order of the file.") var noShuffle = false
  @Flag(help: "Micro-batches of rows of like length.") var groupByLength = false
  @Flag(help: "Learn questions too.") var trainOnPrompt = false
  @Option(help: ArgumentHelp("How messages are written out (default: by the model's own template): llama-3, chatml, mistral, zephyr, or a file.", valueName: "NAME|FILE"))
  var template: TemplateChoice?
  @Option(help: "Which answers of a conversation count: all, last.") var trainOnTurns: LearnedTurns = .all
  @Flag(help: "Take a template though the tokenizer breaks its marks into pieces.") var breakMarks = false
  @Option(help: "Share of the factors' input that is dropped.") var loraDropout = 0.0
  @Option(help: "Where standard error is no terminal: steps between two lines of progress (default: about 20 lines a run).") var logEvery: Int?
  @Option(help: "Steps between validations (default: one at the end).") var evalSteps: Int?
  @Option(help: "Steps between checkpoints.") var saveSteps = 100
  @Option(help: "Checkpoints that are kept, beside the best.") var saveTotalLimit = 2
  @Flag(help: "Write the adapter with the least loss in a validation, not the last.") var keepBest = false
  @Option(help: "End after so many validations without progress, and write the best adapter.") var earlyStopping: Int?
  @Flag(help: "Go on from the output's last checkpoint.") var resume = false
  @Flag(inversion: .prefixedNo, help: "Keep only what goes into each layer, and compute the rest again on the way back.")
  var gradientCheckpointing = false
  @Option(help: "What products are computed in: fp32, or bf16 with float32 sums.") var computeDtype: Compute = .f32
  @Flag(help: "Train on a block file without checking its checksums first.") var noVerify = false
  @Flag(help: "Print what is learned of the first rows, and train nothing.") var showBatch = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    try check()
    let file = try initAdapter.map { try AdapterFile.open($0) }
    let brought = try file.flatMap { try NewHead(of: $0) }
    let head = try brought ?? newHead()
    warnIgnored(hasHead: head != nil, isBrought: brought != nil)
    let model = try Model(base, precision: computeDtype, threads: common.workers, classifier: head, verifies: !noVerify)
    common.warn(model.checkpoint.warnings)
    let rows = try TrainingRows(
      model, tokenizerPath: nil, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template,
      breaksMarks: breakMarks, learnedTurns: trainOnTurns)
    let train = try rows.read(try dataFile("train.jsonl") ?? data)
    let held = try (valid ?? dataFile("valid.jsonl")).map { try rows.read($0) }
    guard held != nil || evalSteps == nil && earlyStopping == nil && !keepBest else {
      throw NibbleError.usage(
        "--eval-steps, --early-stopping and --keep-best need rows to validate on: a valid.jsonl, or --valid")
    }
    common.warn(rows.warnings + train.warnings + (held?.warnings ?? []))
    if showBatch { return try rows.show(train.rows.prefix(batchSize), json: common.json) }
    let tuning = try Finetuning(
      model, try options, train: train.rows, valid: held?.rows ?? [], start: file, threads: common.workers)
    common.warn(tuning.warnings)
    if batchSize * gradientAccumulationSteps > train.rows.count {
      common.warn([
        Warning(
          .data,
          "a step takes \(batchSize * gradientAccumulationSteps) rows, there are \(train.rows.count): they come again in one step"
        )
      ])
    }
    if dryRun { return try printPlan(tuning, train) }
    try tuning.checkMemory(length: train.longest, limit: maxMemory.flatMap(parseBytes), threads: common.workers)
    guard let output else { throw NibbleError.usage("-o is needed: the adapter folder to write") }
    // `--force` replaces what lies there: what is read must not.
    try StreamJob.checkIsNone(of: model.checkpoint.files + (file?.mapped.checkpoint.files ?? []), output)
    let folder = try TrainingFolder(output, resume ? .resume : .anew(force: force), isFull: method == .full)
    let started = monotonicSeconds()
    if resume { common.warn(try tuning.checkResumes(folder)) }
    let log = TrainingLog(steps: tuning.steps, every: logEvery, isQuiet: common.quiet)
    let result = try interruptible {
      try tuning.train(in: folder, record: yaml, resume: resume, validated: { log.show(validation: $1, step: $0) }) { log.show($0, smoothed: $1) }
    }
    Progress.clear()
    common.warn(result.warnings)
    try summarize(result, train, output, monotonicSeconds() - started)
  }

  private func dataFile(_ name: String) throws -> String? {
    guard PathKind(data) == .folder else { return nil }
    if try namesInFolder(data).contains(name) { return data + "/" + name }
    guard name == "train.jsonl" else { return nil }
    throw NibbleError.badInput("\(path: "\(data)/\(name)"): no such file; a folder of data has a train.jsonl")
  }

  /// Flags that count for nothing beside others.
  private func warnIgnored(hasHead: Bool, isBrought: Bool) {
    let heads = ["--num-labels", "--labels", "--pooling", "--many-labels"]
    let factors = [
      "--lora-r", "--r", "--rank", "--lora-alpha", "--alpha", "--target-modules", "--rank-pattern", "--alpha-pattern",
      "--modules-to-save",
      "--bias", "--init-lora",
    ]
    if initAdapter != nil { common.warnIgnored(factors + ["--method"], "--init-adapter brings its own") }
    if isBrought { common.warnIgnored(heads, "--init-adapter brings a head") }
    if !hasHead { common.warnIgnored(Array(heads.dropFirst(2)), "there is no new head") }
    if method == .full { common.warnIgnored(factors + ["--lora-dropout", "--loraplus-ratio"], "--method full has no factors") }
    if optimizer != .sgd { common.warnIgnored(["--momentum"], "--optimizer is \(optimizer.rawValue)") }
    if optimizer == .sgd { common.warnIgnored(["--adam-beta1", "--adam-beta2", "--adam-epsilon"], "--optimizer is sgd") }
  }
}
