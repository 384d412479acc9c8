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
      DATA is a folder with train.jsonl (and valid.jsonl), or a file of rows: {"text"}; {"prompt", "completion"}; {"instruction", \
      "input", "output"}; {"messages"}; {"text", "label"}; {"text", "labels"}; {"input_ids", "labels"}. Of questions and answers \
      only the answer is learned.
      """)

  @Option(help: "The model to train on: a folder, an .nbl file, a bitsandbytes folder.") var base: String
  @Option(help: "Rows to train on: a folder with train.jsonl, or a file.") var data: String
  @Option(name: .shortAndLong, help: "The adapter folder to write.") var output: String?
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Say what it takes and train nothing.") var dryRun = false
  @Option(help: "lora, rslora, dora.") var method: AdapterOptions.Method = .lora
  @Option(name: [.customLong("lora-r"), .customLong("r"), .customLong("rank")], help: "Rank of the factors.") var rank = 8
  @Option(name: [.customLong("lora-alpha"), .customLong("alpha")], help: "Changes are scaled by alpha / rank.") var alpha = 16.0
  @Option(help: "all-linear, attention, mlp, names divided by commas, or a pattern.") var targetModules = "all-linear"
  @Option(help: "Modules trained whole, divided by commas.") var modulesToSave: String?
  @Option(help: "Biases trained too: none, all, lora_only.") var bias: AdapterConfig.Bias = .none
  @Option(help: "How factors begin: kaiming (PEFT's default) or gaussian.") var initLora: AdapterOptions.Start = .kaiming
  @Option(help: "Classes of a new head, for a base that has none or another.") var numLabels: Int?
  @Option(help: "What a new head looks at: mean, first, last.") var pooling: NewHead.Pooling = .mean
  @Flag(help: "With a new head: a text may have several classes.") var manyLabels = false
  @Option(
    parsing: .singleValue, help: ArgumentHelp("Rank of modules a pattern is found in; may be repeated.", valueName: "REGEX=N"))
  var rankPattern: [String] = []
  @Option(parsing: .singleValue, help: ArgumentHelp("The same for alpha.", valueName: "REGEX=X"))
  var alphaPattern: [String] = []
  @Option(help: "Train this adapter on; rank, alpha, method and targets are its own.") var initAdapter: String?
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
  @Option(help: "Decay of weights.") var weightDecay = 0.0
  @Option(help: "Longer gradients are shortened to this; 0 for never.") var maxGradNorm = 1.0
  @Option(help: "Of chance: order of rows, first factors.") var seed = 0
  @Flag(help: "Rows in the order of the file.") var noShuffle = false
  @Flag(help: "Learn questions too.") var trainOnPrompt = false
  @Option(help: "How messages are written out: llama-3, chatml, mistral, zephyr.") var template: ChatTemplate?
  @Option(help: "Share of the factors' input that is dropped.") var loraDropout = 0.0
  @Option(help: "Steps between validations (default: one at the end).") var evalSteps: Int?
  @Option(help: "Steps between checkpoints.") var saveSteps = 100
  @Option(help: "Checkpoints that are kept, beside the best.") var saveTotalLimit = 2
  @Option(help: "End after so many validations without progress, and write the best adapter.") var earlyStopping: Int?
  @Flag(help: "Go on from the output's last checkpoint.") var resume = false
  @Flag(inversion: .prefixedNo, help: "Keep only what goes into each layer, and compute the rest again on the way back.")
  var gradientCheckpointing = false
  @Option(help: "What products are computed in: fp32, or bf16 with float32 sums.") var computeDtype: Compute = .f32
  @Flag(help: "Print what is learned of the first rows, and train nothing.") var showBatch = false
  @OptionGroup var common: CommonOptions

  func run() throws {
    try check()
    let file = try initAdapter.map { try AdapterFile.open($0) }
    let head =
      try file.flatMap { try NewHead(of: $0) }
      ?? numLabels.map { NewHead(labels: $0, pooling: pooling, hasManyLabels: manyLabels) }
    let model = try Model(base, precision: computeDtype, threads: common.workers, classifier: head)
    common.warn(model.checkpoint.warnings)
    let rows = try TrainingRows(
      model, tokenizerPath: nil, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template)
    let train = try rows.read(try dataFile("train.jsonl") ?? data)
    let valid = try dataFile("valid.jsonl").map { try rows.read($0) }
    common.warn(train.warnings + (valid?.warnings ?? []))
    if showBatch { return try rows.show(train.rows.prefix(batchSize)) }
    let tuning = try Finetuning(
      model, try options, train: train.rows, valid: valid?.rows ?? [], start: file, threads: common.workers)
    let longest = train.rows.map(\.ids.count).max() ?? 0
    guard let output = output ?? (dryRun ? "" : nil) else { throw NibbleError.usage("-o is needed: the adapter folder to write") }
    if dryRun { return try printPlan(tuning, length: longest) }
    // `--force` empties the folder: what is read must not lie in it.
    for folder in [output, output + "/model"] {
      try StreamJob.checkIsNone(of: model.checkpoint.files + (file?.mapped.checkpoint.files ?? []), folder)
    }
    let folder = try TrainingFolder(output, resume ? .resume : .anew(force: force))
    let started = monotonicSeconds()
    var tokens = 0, first: Int?
    try folder.write("run.yaml", yaml(steps: tuning.steps))
    let result = try tuning.train(in: folder, resume: resume) { report, smoothed in
      tokens += report.tokens
      first = first ?? report.step
      progress(report, tuning.steps, smoothed, Double(tokens) / (monotonicSeconds() - started), started, from: first ?? 1)
    }
    Progress.clear()
    try summarize(result, output, monotonicSeconds() - started)
  }

  private func printPlan(_ tuning: Finetuning, length: Int) throws {
    let plan = tuning.memory(length: length, threads: common.workers)
    let parts = [
      ("weights", plan.weights), ("trained", plan.trained), ("gradients", plan.gradients), ("optimizer", plan.moments),
      ("activations", plan.activations), ("rest", plan.rest), ("peak memory", plan.total),
    ]
    if common.json {
      let members: [(key: String, value: JSON)] =
        [("verb", "finetune"), ("steps", JSON(tuning.steps)), ("longest_row", JSON(length))]
        + parts.map { ($0.0.replacing(" ", with: "_"), JSON($0.1)) }
      return try StandardOutput.print(JSON.object(members))
    }
    try Summary.printRows(
      [("steps", "\(tuning.steps), rows of at most \(length) tokens, \(batchSize) at once")]
        + parts.map { ($0.0, byteText($0.1)) })
  }

  private func check() throws {
    func positive(_ value: Double, _ flag: String) throws {
      guard value > 0, value.isFinite else { throw NibbleError.usage("\(flag) \(value) is not above 0") }
    }
    for (value, flag) in [
      (rank, "--lora-r"), (batchSize, "--batch-size"), (gradientAccumulationSteps, "--gradient-accumulation-steps"),
      (maxSteps ?? 1, "--max-steps"), (maxLength ?? 2, "--max-length"), (evalSteps ?? 1, "--eval-steps"),
      (numLabels ?? 1, "--num-labels"), (saveSteps, "--save-steps"), (saveTotalLimit, "--save-total-limit"),
      (earlyStopping ?? 1, "--early-stopping"),
    ] where !(1...1 << 30).contains(value) { throw NibbleError.usage("\(flag) \(value) is not a number from 1") }
    try positive(learningRate, "--learning-rate")
    try positive(epochs, "--epochs")
    try positive(loraplusRatio, "--loraplus-ratio")
    guard alpha.isFinite, weightDecay >= 0, weightDecay.isFinite, maxGradNorm >= 0, (0...1).contains(warmupRatio),
      warmupSteps ?? 0 >= 0
    else {
      throw NibbleError.usage("--lora-alpha, --weight-decay, --max-grad-norm, --warmup-ratio or --warmup-steps make no sense")
    }
    guard seed >= 0 else { throw NibbleError.usage("--seed \(seed) is below 0") }
  }

  private func dataFile(_ name: String) throws -> String? {
    guard PathKind(data) == .folder else { return nil }
    let path = data + "/" + name
    if PathKind(path) == .file { return path }
    guard name == "train.jsonl" else { return nil }
    throw NibbleError.badInput("\(path): no such file; a folder of data has a train.jsonl")
  }

  private var adapterOptions: AdapterOptions {
    var options = AdapterOptions()
    (options.method, options.rank, options.alpha, options.targets) = (method, rank, alpha, targetModules)
    options.modulesToSave = modulesToSave?.split(separator: ",").map(String.init) ?? []
    (options.bias, options.start, options.seed) = (bias, initLora, UInt64(max(0, seed)))
    return options
  }

  /// Every option that counts, as `--config` takes it.
  private func yaml(steps: Int) -> String {
    func text(_ value: String) -> String { JSON(value).text() }
    let lines: [(String, String)] =
      [
        ("base", text(base)), ("data", text(data)), ("method", method.rawValue), ("lora_r", "\(rank)"),
        ("lora_alpha", "\(alpha)"),
        ("target_modules", text(targetModules)), ("bias", bias.rawValue), ("init_lora", initLora.rawValue),
        ("max_steps", "\(steps)"),
        ("batch_size", "\(batchSize)"), ("gradient_accumulation_steps", "\(gradientAccumulationSteps)"),
        ("learning_rate", "\(learningRate)"), ("loraplus_ratio", "\(loraplusRatio)"), ("lr_scheduler", lrScheduler.rawValue),
        ("warmup_ratio", "\(warmupRatio)"), ("optimizer", optimizer.rawValue), ("weight_decay", "\(weightDecay)"),
        ("max_grad_norm", "\(maxGradNorm)"), ("lora_dropout", "\(loraDropout)"), ("seed", "\(seed)"),
        ("compute_dtype", computeDtype.rawValue), ("save_steps", "\(saveSteps)"),
      ]
      + [
        ("modules_to_save", modulesToSave.map(text)), ("init_adapter", initAdapter.map(text)),
        ("max_length", maxLength.map { "\($0)" }),
        ("warmup_steps", warmupSteps.map { "\($0)" }), ("template", template?.rawValue),
        ("eval_steps", evalSteps.map { "\($0)" }),
        ("early_stopping", earlyStopping.map { "\($0)" }),
        ("no_shuffle", noShuffle ? "true" : nil), ("train_on_prompt", trainOnPrompt ? "true" : nil),
        ("num_labels", numLabels.map { "\($0)" }), ("pooling", numLabels.map { _ in pooling.rawValue }),
        ("many_labels", manyLabels ? "true" : nil), ("gradient_checkpointing", gradientCheckpointing ? "true" : nil),
        ("rank_pattern", rankPattern.isEmpty ? nil : JSON(rankPattern).text()),
        ("alpha_pattern", alphaPattern.isEmpty ? nil : JSON(alphaPattern).text()),
      ].compactMap { key, value in value.map { (key, $0) } }
    return lines.map { "\($0.0): \($0.1)\n" }.joined()
  }

  private var options: FinetuneOptions {
    get throws {
      var options = self.plainOptions
      options.adapter.rankPattern = try rankPattern.map { text in
        let (pattern, number) = try Self.pattern(text, "--rank-pattern")
        guard let rank = Int(number), (1...1 << 20).contains(rank) else {
          throw NibbleError.usage("--rank-pattern \(quoted(text)): no rank")
        }
        return (pattern, rank)
      }
      options.adapter.alphaPattern = try alphaPattern.map { text in
        let (pattern, number) = try Self.pattern(text, "--alpha-pattern")
        guard let alpha = Double(number), alpha.isFinite else {
          throw NibbleError.usage("--alpha-pattern \(quoted(text)): no number")
        }
        return (pattern, alpha)
      }
      return options
    }
  }

  /// Divided at the last `=`.
  private static func pattern(_ text: String, _ flag: String) throws -> (String, String) {
    guard let equals = text.lastIndex(of: "=") else { throw NibbleError.usage("\(flag) \(quoted(text)) is not REGEX=NUMBER") }
    return (String(text[..<equals]), String(text[text.index(after: equals)...]))
  }

  private var plainOptions: FinetuneOptions {
    var options = FinetuneOptions()
    (options.adapter, options.run) = (adapterOptions, runOptions)
    (options.validationSteps, options.saveSteps, options.savedLimit) = (evalSteps, saveSteps, saveTotalLimit)
    options.patience = earlyStopping
    return options
  }

  private var runOptions: RunOptions {
    var options = RunOptions()
    options.dropout = loraDropout
    options.optimizer.kind = optimizer
    options.optimizer.learningRate = learningRate
    options.optimizer.secondFactorRatio = loraplusRatio
    options.optimizer.weightDecay = weightDecay
    options.optimizer.maximumNorm = maxGradNorm
    options.schedule = lrScheduler
    (options.warmupSteps, options.warmupRatio) = (warmupSteps, warmupRatio)
    (options.maximumSteps, options.epochs, options.batchSize) = (maxSteps, epochs, batchSize)
    (options.accumulation, options.shuffles, options.seed) = (gradientAccumulationSteps, !noShuffle, UInt64(max(0, seed)))
    options.checkpointing = gradientCheckpointing
    return options
  }

  private func progress(
    _ report: StepReport, _ steps: Int, _ smoothed: Double, _ rate: Double, _ started: Double, from first: Int
  ) {
    let elapsed = monotonicSeconds() - started
    let left = elapsed / Double(report.step - first + 1) * Double(steps - report.step)
    guard !common.quiet else { return }
    Progress.show(
      "step \(report.step)/\(steps)  loss \(decimal(report.loss, 4))  smoothed \(decimal(smoothed, 4))  lr \(Float(report.learningRate))  "
        + "norm \(decimal(report.gradientNorm, 3))  \(decimal(rate, 0)) tok/s  \(decimal(left, 0)) s left  \(byteText(ResourceUse.now.peakBytes))"
    )
  }

  private func summarize(_ result: Finetuning.Result, _ output: String, _ seconds: Double) throws {
    let use = ResourceUse.now
    if common.json {
      return try StandardOutput.print([
        "verb": "finetune", "output": JSON(output), "steps": JSON(result.steps), "loss": JSON(result.smoothedLoss),
        "trained": JSON(result.trained), "valid_loss": result.validationLoss.map { JSON($0) } ?? .null,
        "valid_accuracy": result.validationAccuracy.map { JSON($0) } ?? .null,
        "best_step": result.bestStep.map { JSON($0) } ?? .null,
        "tokens": JSON(result.tokens), "seconds": JSON(seconds), "cpu_seconds": JSON(use.userSeconds + use.systemSeconds),
        "peak_memory": JSON(use.peakBytes), "threads": JSON(common.workers),
      ])
    }
    var rows = [
      ("output", output), ("trained", "\(result.trained) numbers"),
      ("steps", "\(result.steps), smoothed loss \(decimal(result.smoothedLoss, 4))"),
    ]
    if let loss = result.validationLoss {
      let accuracy = result.validationAccuracy.map { ", accuracy \(decimal($0, 4))" } ?? ""
      rows.append(("validation", "loss \(decimal(loss, 4))\(accuracy)" + (result.bestStep.map { ", of step \($0)" } ?? "")))
    }
    rows += [
      ("time", "\(decimal(seconds, 2)) s, \(decimal(Double(result.tokens) / max(seconds, 1e-9), 0)) tokens a second"),
      ("peak memory", byteText(use.peakBytes)),
    ]
    try Summary.printRows(rows)
  }
}

extension AdapterOptions.Method: ExpressibleByArgument {}
extension AdapterOptions.Start: ExpressibleByArgument {}
extension AdapterConfig.Bias: ExpressibleByArgument {}
extension OptimizerOptions.Kind: ExpressibleByArgument {}
extension Schedule.Kind: ExpressibleByArgument {}
extension ChatTemplate: ExpressibleByArgument {}
extension NewHead.Pooling: ExpressibleByArgument {}
