import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining

/// Flags as the library takes them.
extension FinetuneCommand {
  func check() throws {
    try methods.check()
    func positive(_ value: Double, _ flag: String) throws {
      guard value > 0, value.isFinite else { throw NibbleError.usage("\(flag) \(value) is not above 0") }
    }
    for (value, flag) in [
      (rank, "--lora-r"), (batchSize, "--batch-size"), (gradientAccumulationSteps, "--gradient-accumulation-steps"),
      (maxSteps ?? 1, "--max-steps"), (maxLength ?? 2, "--max-length"), (evalSteps ?? 1, "--eval-steps"),
      (numLabels ?? 1, "--num-labels"), (saveSteps, "--save-steps"), (saveTotalLimit, "--save-total-limit"),
      (earlyStopping ?? 1, "--early-stopping"), (logEvery ?? 1, "--log-every"), (lrCycles, "--lr-cycles"),
      (lrDecaySteps ?? 1, "--lr-decay-steps"),
    ] where !(1...1 << 30).contains(value) { throw NibbleError.usage("\(flag) \(value) is not from 1 to \(1 << 30)") }
    try positive(learningRate, "--learning-rate")
    try positive(epochs, "--epochs")
    try positive(loraplusRatio, "--loraplus-ratio")
    try positive(epsilon, "--adam-epsilon")
    try positive(lrPower, "--lr-power")
    let kind = try schedule()
    for (value, flag) in [
      (beta1, "--adam-beta1"), (beta2 ?? 0, "--adam-beta2"), (momentum, "--momentum"), (loraDropout, "--lora-dropout"),
      (labelSmoothing, "--label-smoothing"),
    ] where !(0..<1).contains(value) {
      throw NibbleError.usage("\(flag) \(value) is not from 0 to below 1")
    }
    guard !(groupByLength && noShuffle) else {
      throw NibbleError.usage("--group-by-length needs a shuffled order, so it excludes --no-shuffle")
    }
    for (value, flag, isGood) in [
      (alpha, "--lora-alpha", alpha.isFinite), (weightDecay, "--weight-decay", weightDecay >= 0 && weightDecay.isFinite),
      (maxGradNorm, "--max-grad-norm", maxGradNorm >= 0), (warmupRatio, "--warmup-ratio", (0...1).contains(warmupRatio)),
      (Double(warmupSteps ?? 0), "--warmup-steps", warmupSteps ?? 0 >= 0),
      (lrEnd, "--lr-end", lrEnd >= 0 && (lrEnd < learningRate || kind != .polynomial)), (lrLeast, "--lr-least", (0...1).contains(lrLeast)),
      (neftuneNoiseAlpha, "--neftune-noise-alpha", neftuneNoiseAlpha >= 0 && neftuneNoiseAlpha.isFinite),
      (mlmProbability, "--mlm-probability", mlmProbability > 0 && mlmProbability <= 1),
    ] where !isGood { throw NibbleError.usage("\(flag) \(value) is out of range") }
    if let maxMemory, parseBytes(maxMemory) == nil {
      throw NibbleError.usage("--max-memory \(quoted(maxMemory)) is not a size such as 300MB")
    }
    if let modulesToSave, modulesToSave.allSatisfy({ $0 == "," }) {
      throw NibbleError.usage("--modules-to-save \(quoted(modulesToSave)) names nothing")
    }
    guard docStride >= 0 else { throw NibbleError.usage("--doc-stride \(docStride) is below 0") }
    guard seed >= 0 else { throw NibbleError.usage("--seed \(seed) is below 0") }
    _ = try runOptions
  }

  /// The head that is asked for, if one is.
  func newHead() throws -> NewHead? {
    let names = try labels.map(Self.names) ?? []
    if pooling == .span {
      guard numLabels == nil, names.isEmpty else { throw NibbleError.usage("--pooling span marks answers: it has no classes for --num-labels and --labels") }
      return NewHead(labels: 2, pooling: .span, seed: seed)
    }
    guard let count = numLabels ?? (names.isEmpty ? nil : names.count) else { return nil }
    guard names.isEmpty || names.count == count else {
      throw NibbleError.usage("--num-labels \(count), but --labels names \(names.count)")
    }
    return NewHead(labels: count, pooling: pooling, hasManyLabels: manyLabels, names: names, seed: seed)
  }

  private static func names(_ text: String) throws -> [String] {
    var names = text.split(separator: ",").map(String.init)
    if text.hasPrefix("@") {
      let path = String(text.dropFirst())
      let file = try InputFile(path)
      guard file.size <= 1 << 20, let lines = String(validating: try file.bytes(at: 0, count: file.size), as: UTF8.self) else {
        throw NibbleError.badInput("\(path: path): not a list of names, one per line")
      }
      names = lines.split(whereSeparator: \.isNewline).map(String.init)
    }
    guard !names.isEmpty, Set(names).count == names.count else {
      throw NibbleError.usage("--labels \(quoted(text)): it names no class, or one twice")
    }
    for (place, name) in names.enumerated() where Int(name) ?? place != place {
      throw NibbleError.usage("--labels \(quoted(text)): \(quoted(name)) is the number of another class")
    }
    return names
  }

  var options: FinetuneOptions {
    get throws {
      var options = try plainOptions
      options.adapter.baseName = try baseName.map { try ModelOrigin($0) }
      try parts.apply(to: &options.adapter)
      try methods.apply(to: &options.adapter)
      try starts.apply(to: &options.adapter)
      options.adapter.rankPattern = try rankPattern.map { text in
        let (pattern, number) = try Self.pattern(text, "--rank-pattern")
        guard let rank = Int(number), (1...1 << 20).contains(rank) else {
          throw NibbleError.usage("--rank-pattern \(subject: text): the part after '=' is not a rank")
        }
        return (pattern, rank)
      }
      options.adapter.alphaPattern = try alphaPattern.map { text in
        let (pattern, number) = try Self.pattern(text, "--alpha-pattern")
        guard let alpha = Double(number), alpha.isFinite else {
          throw NibbleError.usage("--alpha-pattern \(subject: text): the part after '=' is not a number")
        }
        return (pattern, alpha)
      }
      for text in methodOption { try options.adapter.set(text) }
      return options
    }
  }

  /// The options, with what is trained for new tokens.
  func options(with added: ChatTokens, on model: Model) throws -> FinetuneOptions {
    var options = try options
    methods.applyBase(model, to: &options.adapter)
    guard !added.tokens.isEmpty else { return options }
    added.train(in: &options.adapter, of: model)
    options.tokenizerFiles = added.files
    return options
  }

  /// The options of training on images.
  ///
  /// - Parameter black: what black is once it is normalized
  func options(with added: ChatTokens, on model: Model, black: [Float]) throws -> FinetuneOptions {
    var options = try options(with: added, on: model)
    options.run.images.black = black
    return options
  }

  /// Divided at the last `=`.
  static func pattern(_ text: String, _ flag: String) throws -> (String, String) {
    guard let equals = text.lastIndex(of: "=") else { throw NibbleError.usage("\(flag) \(quoted(text)) is not REGEX=NUMBER") }
    return (String(text[..<equals]), String(text[text.index(after: equals)...]))
  }

  private var plainOptions: FinetuneOptions {
    get throws {
      var options = FinetuneOptions()
      (options.adapter, options.run) = (adapterOptions, try runOptions)
      (options.validationSteps, options.saveSteps, options.savedLimit) = (evalSteps, saveSteps, saveTotalLimit)
      (options.patience, options.writesBest, options.anyBase) = (earlyStopping, keepBest, anyBase)
      options.bestFigure = validation.metricForBestModel
      return options
    }
  }

  private var runOptions: RunOptions {
    get throws {
      var options = RunOptions()
      options.dropout = loraDropout
      options.mergeAware = mergeAware
      options.optimizer = try optimizerOptions()
      (options.schedule, options.scheduleShape) = (try schedule(), scheduleShape)
      (options.warmupSteps, options.warmupRatio) = (warmupSteps, warmupRatio)
      (options.maximumSteps, options.epochs, options.batchSize) = (maxSteps, epochs, batchSize)
      (options.accumulation, options.shuffles, options.seed) = (gradientAccumulationSteps, !noShuffle, UInt64(max(0, seed)))
      (options.checkpointing, options.groupsByLength) = (gradientCheckpointing, groupByLength)
      (options.noiseAlpha, options.labelSmoothing, options.images) = (neftuneNoiseAlpha, labelSmoothing, images.augmentation)
      options.maskProbability = mlmProbability
      return options
    }
  }

  private var adapterOptions: AdapterOptions {
    var options = AdapterOptions()
    (options.method, options.rank, options.alpha, options.targets) = (method, rank, alpha, targetModules)
    options.modulesToSave = modulesToSave?.split(separator: ",").map(String.init) ?? []
    (options.bias, options.dropout, options.seed) = (bias, loraDropout, UInt64(max(0, seed)))
    return options
  }
}

extension AdapterOptions.Method: ExpressibleByArgument {}
extension AdapterOptions.Start: ExpressibleByArgument {}
extension AdapterConfig.Bias: ExpressibleByArgument {}
extension Schedule.Decay: ExpressibleByArgument {}
extension NewHead.Pooling: ExpressibleByArgument {}

extension AdapterOptions {
  /// Takes a setting of the method, KEY=VALUE.
  fileprivate mutating func set(_ text: String) throws {
    let (setting, number) = try MethodSetting.given(text, among: method.settings, flag: "--method-option", of: "--method \(method.rawValue)")
    guard let number else {
      settingPatterns.append((setting.key, try ModuleChoice(String(text.dropFirst(setting.key.count + 1))).pattern, 1))
      return
    }
    settings[setting.key] = number
  }
}
