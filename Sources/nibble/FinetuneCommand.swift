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
      {"messages"}; {"conversations"} (ShareGPT); {"text", "label"}; {"text", "labels"}; {"tokens", "labels"}; {"input_ids", "labels"}. Of texts a model that fills masks (BertForMaskedLM and its like) learns tokens that are \
      hidden anew each time. A model that marks answers takes \
      SQuAD's file, or rows of {"context", "question", "answers"}. Only answers are \
      learned, unless --train-on-prompt is given. A model of images takes a folder with a folder of PNG and JPEG files per class (or with train \
      and valid in it), rows of {"image", "label"}, or a .bin file of CIFAR-10.
      """)

  @Option(name: [.long, .customShort("m")], help: "The model to train on: a Hugging Face folder, an .nbl file or a bitsandbytes folder.") var base: String
  @Option(help: "Training data: a folder with train.jsonl, or a file.") var data: String
  @Option(help: "Validation data (default: valid.jsonl in the folder of --data).") var valid: String?
  @Option(name: .shortAndLong, help: "The folder to write: an adapter, or a model with --method full.") var output: String?
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Print steps and memory, and train nothing.") var dryRun = false
  @Flag(help: "With --dry-run: also print the memory as papers' tables count it.") var asPublished = false
  @Flag(help: "With --dry-run: also time the first steps, and print how long the run takes.") var time = false
  @Option(help: ArgumentHelp("Refuse a run that needs more memory (default: the machine's).", valueName: "bytes")) var maxMemory:
    String?
  @Option(
    help: ArgumentHelp(
      "lora, rslora, dora, lora-fa, delta-lora, adalora, vera, loha, lokr, ia3, oft, boft, hra, miss, qalora, iec (of IR-QLoRA), qbara or qahira; full trains every weight of a float base."))
  var method: AdapterOptions.Method = .lora
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp(
      "A setting of the method by its key in adapter_config.json, such as decompose_factor=4; can be repeated.", valueName: "KEY=VALUE"))
  var methodOption: [String] = []
  @Option(name: [.customLong("lora-r"), .customLong("r"), .customLong("rank")], help: "Rank of the LoRA factors.") var rank = 8
  @Option(name: [.customLong("lora-alpha"), .customLong("alpha")], help: "LoRA alpha: the adapter's output is scaled by alpha / rank.") var alpha = 16.0
  @Option(
    help: ArgumentHelp(
      "Modules to adapt: all-linear, attention, mlp, comma-separated names, or a regular expression for whole paths. Names and expressions may mean embeddings and the output head, too."))
  var targetModules = "all-linear"
  @Option(help: "Comma-separated modules to train in full, beside the adapter.") var modulesToSave: String?
  @Option(help: "Biases to train: none, all, or lora_only (those of adapted layers).") var bias: AdapterConfig.Bias = .none
  @OptionGroup var starts: StartOptions
  @Option(help: "Add a new classification head with this many classes; 1 is regression.") var numLabels: Int?
  @Option(
    help: ArgumentHelp(
      "Class names of the new head: comma-separated, or one per line in a file.", valueName: "NAMES|@FILE"))
  var labels: String?
  @Option(help: "Token states the new head reads: model, as transformers' class for the model does; each, for a class of every token; span, for answers marked in a text; mean, first or last, which only nibble runs.")
  var pooling: NewHead.Pooling = .model
  @Flag(help: "With a new head: a text can have several classes.") var manyLabels = false
  @Option(
    parsing: .singleValue, help: ArgumentHelp("Rank of the modules that match a pattern; can be repeated.", valueName: "REGEX=N"))
  var rankPattern: [String] = []
  @Option(parsing: .singleValue, help: ArgumentHelp("Alpha of the modules that match a pattern; can be repeated.", valueName: "REGEX=X"))
  var alphaPattern: [String] = []
  @Option(help: "Continue training this adapter; rank, alpha, method and targets come from it.") var initAdapter: String?
  @Option(
    help: ArgumentHelp("Name under which PEFT finds the base (default: the name recorded in the base).", valueName: "ORG/NAME[@REVISION]"))
  var baseName: String?
  @Flag(help: "Accept an --init-adapter that was trained on another base.") var anyBase = false
  @Option(help: "Number of steps; overrides --epochs.") var maxSteps: Int?
  @Option(help: "Passes over the training data.") var epochs = 1.0
  @Option(help: "Rows per micro-batch.") var batchSize = 8
  @Option(help: "Micro-batches per step.") var gradientAccumulationSteps = 1
  @Option(help: "Largest number of tokens per row; longer rows are cut, and the summary counts the tokens.") var maxLength: Int?
  @Option(help: "Tokens that two windows of a context have in common (models that mark answers).") var docStride = 128
  @Option(help: "How likely a token of a text is hidden, and learned (models that fill masks).") var mlmProbability = 0.15
  @Option(help: "Peak learning rate.") var learningRate = 2e-4
  @Option(help: "LoRA+: multiplies the learning rate of the second factors.") var loraplusRatio = 1.0
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp("Peak learning rate of the tensors whose name matches a pattern; can be repeated.", valueName: "REGEX=X"))
  var learningRatePattern: [String] = []
  @Option(
    help: ArgumentHelp(
      "Schedule after the warm-up: constant, linear, cosine, cosine_with_restarts, polynomial or warmup_stable_decay (default: linear; constant for schedule-free-adamw).",
      valueName: "name"))
  var lrScheduler: String?
  @Option(help: "cosine_with_restarts: how often the rate falls.") var lrCycles = 1
  @Option(help: "polynomial: the power of what is left of the run.") var lrPower = 1.0
  @Option(help: "polynomial: the last learning rate.") var lrEnd = 1e-7
  @Option(help: "warmup_stable_decay: steps of the fall at the end (default: a tenth of the run).") var lrDecaySteps: Int?
  @Option(help: "warmup_stable_decay: how the rate falls: linear, cosine or 1-sqrt.") var lrDecay: Schedule.Decay = .cosine
  @Option(help: "warmup_stable_decay: the share of the rate that is left at the end.") var lrLeast = 0.0
  @Option(help: "Warm-up steps, over which the learning rate rises from 0.") var warmupSteps: Int?
  @Option(help: "Warm-up as a fraction of all steps.") var warmupRatio = 0.0
  @Option(
    help: ArgumentHelp(
      "adamw, adam, sgd, lion, adafactor or schedule-free-adamw. The first four with -8bit keep their states in 8 bits: adamw-8bit.",
      valueName: "name"))
  var optimizer = "adamw"
  @Flag(help: "Keep the optimizer's states in a file that is paged in and out. The result is the same.") var paged = false
  @Option(name: .customLong("adam-beta1"), help: "Adam, Lion: decay of the first moment.") var beta1 = 0.9
  @Option(name: .customLong("adam-beta2"), help: "Adam, Lion: decay of the second moment (default: 0.999; lion: 0.99).") var beta2: Double?
  @Option(name: .customLong("adam-epsilon"), help: "Adam: added to the denominator.") var epsilon = 1e-8
  @Option(help: "Momentum of sgd.") var momentum = 0.0
  @Option(help: "Weight decay.") var weightDecay = 0.0
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp("What does not decay: biases, norms, or a pattern for names of tensors; can be repeated.", valueName: "REGEX"))
  var noDecay: [String] = []
  @Option(help: "Clip the gradient norm to this; 0 disables clipping.") var maxGradNorm = 1.0
  @Option(help: "Seed for the order of rows, the initial factors, a new head and dropout.") var seed = 0
  @Flag(help: "Keep the rows in file order.") var noShuffle = false
  @Flag(help: "Put rows of similar length into the same micro-batch.") var groupByLength = false
  @Flag(help: "Also learn prompts, not only answers.") var trainOnPrompt = false
  @Option(help: ArgumentHelp("Chat template for messages: llama-3, chatml, mistral, zephyr, or a template file (default: the model's own).", valueName: "NAME|FILE"))
  var template: TemplateChoice?
  @Option(help: "Answers of a conversation to learn: all or last.") var trainOnTurns: LearnedTurns = .all
  @Flag(help: "Add special tokens of the --template that the tokenizer lacks, and train their rows of embedding and head.") var addTokens = false
  @Flag(help: "Accept a template whose special tokens the tokenizer splits into pieces.") var breakMarks = false
  @Option(help: "Dropout of the input of the LoRA factors.") var loraDropout = 0.0

  @Flag(
    help:
      "Train for a merge into the base's codes: packed layers compute with what 'merge' would store, so that rounding keeps what is learned. Validation losses are those of the merged model."
  )
  var mergeAware = false
  @Option(help: "NEFTune: noise on the embeddings of tokens while training, 5 to 15; 0 for none.") var neftuneNoiseAlpha = 0.0
  @Option(help: "Share of each target that is spread over all tokens or classes while training.") var labelSmoothing = 0.0
  @Option(help: "Steps per progress line, if standard error is not a terminal (default: about 20 lines per run).") var logEvery: Int?
  @Option(help: "Steps between validations (default: only before the first step and after the last).") var evalSteps: Int?
  @Option(help: "Steps between checkpoints.") var saveSteps = 100
  @Option(help: "Number of checkpoints to keep, in addition to the best.") var saveTotalLimit = 2
  @Flag(help: "Write the result with the best validation instead of the last.") var keepBest = false
  @OptionGroup var validation: ValidationTask
  @Option(help: "Stop after this many validations without improvement, and write the best result.") var earlyStopping: Int?
  @Flag(help: "Continue from the last checkpoint in the output folder; begin where there is none.") var resume = false
  @Flag(inversion: .prefixedNo, help: "Recompute activations in the backward pass: less memory, more time.")
  var gradientCheckpointing = false
  @Option(help: "Precision of matrix products: fp32, or bf16 with float32 sums.") var computeDtype: Compute = .f32
  @Flag(help: "Skip the checksums of an .nbl base.") var noVerify = false
  @Flag(help: "Print the tokens of the first rows and which of them are learned, and train nothing.") var showBatch = false
  @OptionGroup var images: ImageOptions
  @OptionGroup var parts: PartOptions
  @OptionGroup var methods: MethodOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    try check()
    let file = try initAdapter.map { try AdapterFile.open($0) }
    let brought = try file.flatMap { try NewHead(of: $0) }
    let head = try brought ?? newHead()
    warnIgnored(hasHead: head != nil, isBrought: brought != nil)
    let added = try addedTokens(to: Checkpoint.open(base))
    let grown = try grown(added.base, file)
    let model = try Model(
      grown, precision: computeDtype, team: Team(threads: common.workers), classifier: head,
      verifies: !noVerify)
    common.warn(model.checkpoint.warnings + (baseName == nil && method != .full ? model.checkpoint.nameWarnings : []))
    if head != nil { common.warn(Self.warningOfOtherHead(model)) }
    warnIgnoredOfImages(model)
    guard !model.takesImages else {
      let (train, held, black) = try images(for: model)
      return try finetune(model, options(with: added, on: model, black: black), train, held, file)
    }
    let rows = try TrainingRows(
      model, tokenizerPath: nil, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template,
      breaksMarks: breakMarks, learnedTurns: trainOnTurns, docStride: docStride)
    if rows.windows == nil { common.warnIgnored(["--doc-stride"], "the model marks no answers") }
    if rows.fillsMasks {
      common.warnIgnored(["--train-on-prompt", "--template", "--train-on-turns", "--break-marks"], "the model fills masks")
    } else {
      common.warnIgnored(["--mlm-probability"], "the model fills no masks")
    }
    let train = try rows.read(try dataFile("train.jsonl") ?? data)
    let held = try (valid ?? dataFile("valid.jsonl")).map { try rows.read($0) }
    common.warn(rows.warnings + train.warnings + (held?.warnings ?? []))
    if showBatch {
      let first = TrainingRow.hidden(Array(train.rows.prefix(batchSize)), seed: UInt64(max(0, seed)), probability: mlmProbability)
      return try rows.show(first[...], json: common.json)
    }
    try finetune(model, self.options(with: added, on: model), train, held, file)
  }

  /// Trains on rows that were read.
  ///
  /// - Parameter file: an adapter to train on
  private func finetune(
    _ model: Model, _ options: FinetuneOptions, _ train: TrainingRows.Data, _ held: TrainingRows.Data?, _ file: AdapterFile?
  ) throws {
    guard held != nil || evalSteps == nil && earlyStopping == nil && !keepBest && validation.evalTask == nil else {
      throw NibbleError.usage(
        "--eval-steps, --early-stopping, --keep-best and --eval-task need rows to validate on: a valid.jsonl, or --valid")
    }
    let tuning = try Finetuning(
      model, options, train: train.rows, valid: held?.rows ?? [], start: file, threads: common.workers)
    tuning.measure = try validation.measure(model, base: base, rows: valid ?? dataFile("valid.jsonl"), windows: (maxLength, docStride), common)
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
    try StreamJob.checkIsNone(
      of: model.checkpoint.files + (file?.mapped.checkpoint.files ?? []) + (options.adapter.original?.files ?? []), output)
    let folder = try TrainingFolder(output, resume ? .resume : .anew(force: force), isFull: method == .full)
    let started = monotonicSeconds()
    if folder.continues { common.warn(try tuning.checkResumes(folder)) }
    if resume, !folder.continues, !common.quiet { write("nibble: --resume: there is no run in \(oneLine(output)) yet, a new one begins\n", to: STDERR_FILENO) }
    if !common.quiet, !folder.continues { write(Self.trained(tuning, of: model) + "\n", to: STDERR_FILENO) }
    let log = TrainingLog(steps: tuning.steps, every: logEvery, isQuiet: common.quiet)
    let result = try interruptible {
      try tuning.train(in: folder, record: yaml, resume: folder.continues, validated: { log.show(validation: $1, step: $0) }) { log.show($0, smoothed: $1) }
    }
    Progress.clear()
    common.warn(result.warnings)
    try summarize(result, train, output, monotonicSeconds() - started)
  }

  /// What a new head leaves out of the base.
  private static func warningOfOtherHead(_ model: Model) -> [Warning] {
    let left = model.unusedTensors.sorted()
    guard let first = left.first else { return [] }
    return [
      Warning(
        .unused, "\(path: model.path): the new head leaves out \(left.count) tensor\(left.count == 1 ? "" : "s") of the base, \(subject: first) the first")
    ]
  }

  private func dataFile(_ name: String) throws -> String? {
    guard PathKind(data) == .folder else { return nil }
    if try namesInFolder(data).contains(name) { return data + "/" + name }
    guard name == "train.jsonl" else { return nil }
    throw NibbleError.badInput("\(path: "\(data)/\(name)"): no such file; a folder of data has a train.jsonl")
  }

  /// The base, with the tokens that `--add-tokens` asks for.
  private func addedTokens(to checkpoint: Checkpoint) throws -> ChatTokens {
    guard addTokens else { return ChatTokens(none: checkpoint) }
    guard case .builtIn(let template)? = try template?.resolved() else {
      throw NibbleError.usage("--add-tokens adds the tokens of a --template by its name: llama-3, chatml, mistral, zephyr")
    }
    guard method != .full, initAdapter == nil else {
      throw NibbleError.usage("--add-tokens goes with a new adapter, not with \(method == .full ? "--method full" : "--init-adapter")")
    }
    let added = try ChatTokens(adding: template, to: checkpoint, threads: common.workers)
    if added.tokens.isEmpty { common.warn([Warning(.unused, "\(.addTokens): the tokenizer has all tokens of \(template.rawValue)")]) }
    return added
  }

  /// The base with what the adapter to train on, or the options, make of it.
  private func grown(_ base: Checkpoint, _ start: AdapterFile?) throws -> Checkpoint {
    func identity() throws -> Digest128 { try base.claimedIdentity ?? base.hash(threads: common.workers) }
    if let start { return try base.grown(for: [start], identity: identity) }
    let layers = try parts.layers
    guard !layers.isEmpty else { return base }
    guard method != .full else { throw NibbleError.usage("--layer-replication goes with an adapter, not with --method full") }
    return try base.replicatingLayers(layers, identity: identity())
  }

  /// Flags without effect beside others.
  private func warnIgnored(hasHead: Bool, isBrought: Bool) {
    let heads = ["--num-labels", "--labels", "--pooling", "--many-labels"]
    let factors = [
      "--lora-r", "--r", "--rank", "--lora-alpha", "--alpha", "--target-modules", "--rank-pattern", "--alpha-pattern",
      "--modules-to-save",
      "--bias",
    ] + PartOptions.flags + StartOptions.flags + MethodOptions.flags
    if !dryRun { common.warnIgnored(["--time", "--as-published"], "only a plan prints them") }
    if initAdapter != nil { common.warnIgnored(factors + ["--method"], "--init-adapter brings its own") }
    if isBrought { common.warnIgnored(heads, "--init-adapter brings a head") }
    if !hasHead { common.warnIgnored(Array(heads.dropFirst(2)), "there is no new head") }
    if method == .full { common.warnIgnored(factors + ["--lora-dropout", "--loraplus-ratio"], "--method full has no factors") }
    if !dryRun { common.warnIgnored(["--as-published", "--time"], "this is no plan") }
    warnIgnoredOfOptimizer()
  }
}
