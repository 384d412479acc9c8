import NibbleCore

/// Everything that decides what a run computes, by name: two runs with the same record take the same steps.
///
/// The length of a run is part of the record, but not of its identity: a run that is resumed may become longer.
struct RunRecord {
  /// In the order in which differences are reported.
  let parts: [(name: String, value: JSON)]
  /// Steps of the whole run, and the options they follow from.
  let length: [(name: String, value: JSON)]

  /// Whether the learning rates of the steps do not depend on the length.
  let keepsRates: Bool

  /// Everything but the length.
  var identity: Digest128 { Self.digest(JSON.object(parts.map { (key: $0.name, value: $0.value) }).text()) }

  private static func digest(_ text: String) -> Digest128 {
    let hash = XXH3()
    hash.update(Array(text.utf8))
    return hash.digest128
  }

  private static let mark = "# run "

  /// The first line of `run.yaml`.
  var line: String { Self.mark + JSON.object((parts + length).map { (key: $0.name, value: $0.value) }).text() }

  private var steps: Int { length.first { $0.name == "steps" }?.value.int ?? 0 }

  /// Compares with the run that `text`, a `run.yaml`, is of.
  ///
  /// - Returns: whether this run is longer, and what to know about that
  /// - Throws: `.badInput` for a text that names no run, `.usage` for another run or a longer one
  func checkContinues(_ text: String, folder: String, file: String) throws -> (isLonger: Bool, warnings: [Warning]) {
    let first = text.prefix { !$0.isNewline }
    guard first.hasPrefix(Self.mark), let begun = try? JSON.parse(String(first.dropFirst(Self.mark.count))), let before = begun["steps"]?.int
    else { throw NibbleError.badInput("\(path: file): its first line names no run") }
    for (name, value) in parts where begun[name] ?? .null != value {
      throw NibbleError.usage("\(path: folder): \(Self.difference(name, begun[name] ?? .null, value)); \(Self.advice)")
    }
    // What only the earlier run has.
    let names = Set((parts + length).map(\.name))
    if let other = begun.members?.first(where: { !names.contains($0.key) }) {
      throw NibbleError.usage("\(path: folder): \(Self.difference(other.key, other.value, .null)); \(Self.advice)")
    }
    guard steps != before else { return (false, []) }
    let changed = length.first { $0.name != "steps" && begun[$0.name] ?? .null != $0.value }
    let change = changed.map { Self.difference($0.name, begun[$0.name] ?? .null, $0.value) } ?? "the run has \(before) steps"
    guard steps > before else {
      throw NibbleError.usage("\(path: folder): \(change): \(before) steps become \(steps), and a run that is resumed can only become longer; \(Self.advice)")
    }
    let longer: MessageText = "\(path: folder): the run takes \(steps) steps instead of \(before)"
    let schedule: MessageText = keepsRates ? "" : "; from here on the learning rate follows the schedule of the longer run"
    return (true, [Warning(.journal, longer + schedule)])
  }

  private static let advice: MessageText = "use the same to resume, or begin anew with \(.force)"

  /// `this run was begun with --learning-rate 0.0002, not with --learning-rate 0.001`
  private static func difference(_ name: String, _ begun: JSON, _ now: JSON) -> MessageText {
    switch name {
    case "base": return "this run was begun on another base"
    case "data": return "this run was begun on other data"
    case "init_adapter": return "this run was begun with another \(.initAdapter)"
    default: break
    }
    guard let setting = setting(name) else { return "this run was begun with \(name) \(begun.text()), not \(now.text())" }
    let (a, b) = (phrase(setting, begun), phrase(setting, now))
    return "this run was begun \(a), not \(b)"
  }

  private static func phrase(_ setting: Setting, _ value: JSON) -> MessageText {
    switch value {
    case _ where [.null, .bool(false), [], .object([])].contains(value): "without \(setting)"
    case .bool(true): "with \(setting)"
    case .object(let members): "with \(setting, members.map { "\($0.key)=\($0.value.text())" }.joined(separator: " "))"
    case .array(let list): "with \(setting, list.map { $0.string ?? $0.text() }.joined(separator: ","))"
    default: "with \(setting, value.string ?? value.text())"
    }
  }

  private static let otherNames: [String: Setting] = ["lora_r": .loraRank, "init": .initLora]

  /// The option that a name in the record stands for.
  static func setting(_ name: String) -> Setting? {
    let words = name.split(separator: "_")
    let camel = words.prefix(1).joined() + words.dropFirst().map { $0.prefix(1).uppercased() + $0.dropFirst() }.joined()
    return otherNames[name] ?? Setting(rawValue: camel)
  }
}

extension RunRecord {
  /// - Parameter start: the contents of the initial adapter, which then replace the adapter options
  init(base: Digest128, data: Digest128, start: String?, compute: String, _ options: FinetuneOptions, steps: Int) {
    let run = options.run
    var parts: [(name: String, value: JSON)] = [
      ("base", JSON("\(base)")), ("data", JSON("\(data)")), ("init_adapter", start.map { JSON("\(Self.digest($0))") } ?? .null),
      ("compute_dtype", JSON(compute)),
    ]
    let adapter = start == nil ? (options.adapter.json.members ?? []).map { (name: $0.key, value: $0.value) } : []
    for part in run.record + adapter where !parts.contains(where: { $0.name == part.name }) { parts.append(part) }
    // It chooses among checkpoints, of which only some are kept.
    if options.bestFigure != "loss" { parts.append(("metric_for_best_model", JSON(options.bestFigure))) }
    self.parts = parts
    length = [("max_steps", run.maximumSteps.map { JSON($0) } ?? .null), ("epochs", JSON(run.epochs)), ("steps", JSON(steps))]
    keepsRates = (run.schedule == .constant || run.optimizer.choice.method.isScheduleFree) && (run.warmupSteps != nil || run.warmupRatio == 0)
  }
}

extension RunOptions {
  /// Everything in it but the length, for the record of a run. How the work is split is no part of it.
  var record: [(name: String, value: JSON)] {
    let o = optimizer
    return [
      ("optimizer", JSON(o.choice.description)), ("learning_rate", JSON(o.learningRate)), ("loraplus_ratio", JSON(o.secondFactorRatio)),
      ("adam_beta1", JSON(o.beta1)), ("adam_beta2", JSON(o.ownBeta2)), ("adam_epsilon", JSON(o.epsilon)), ("weight_decay", JSON(o.weightDecay)),
      ("momentum", JSON(o.momentum)), ("max_grad_norm", JSON(o.maximumNorm)), ("lr_scheduler", JSON(schedule.rawValue)),
      ("warmup_steps", warmupSteps.map { JSON($0) } ?? .null), ("warmup_ratio", JSON(warmupRatio)), ("batch_size", JSON(batchSize)),
      ("gradient_accumulation_steps", JSON(accumulation)), ("no_shuffle", .bool(!shuffles)), ("group_by_length", .bool(groupsByLength)),
      ("seed", JSON(String(seed))), ("lora_dropout", JSON(dropout)),
    ] + laterRecord
  }

  /// What an earlier version's run had none of: null where it is not used, so that such a run can be resumed.
  private var laterRecord: [(name: String, value: JSON)] {
    let (o, shape) = (optimizer, scheduleShape)
    func used(_ kind: Schedule.Kind, _ value: JSON) -> JSON { schedule == kind && !o.choice.method.isScheduleFree ? value : .null }
    return [
      ("learning_rate_pattern", o.rates.isEmpty ? .null : .object(o.rates.map { ($0.pattern, JSON($0.rate)) })),
      ("no_decay", o.noDecay.isEmpty ? .null : JSON(o.noDecay)), ("lr_cycles", used(.cosineWithRestarts, JSON(shape.cycles))),
      ("lr_power", used(.polynomial, JSON(shape.power))), ("lr_end", used(.polynomial, JSON(shape.end))),
      ("lr_decay_steps", used(.warmupStableDecay, shape.decaySteps.map { JSON($0) } ?? .null)),
      ("lr_decay", used(.warmupStableDecay, JSON(shape.decay.rawValue))), ("lr_least", used(.warmupStableDecay, JSON(shape.least))),
      ("neftune_noise_alpha", noiseAlpha == 0 ? .null : JSON(noiseAlpha)),
      ("label_smoothing", labelSmoothing == 0 ? .null : JSON(labelSmoothing)),
      ("mlm_probability", maskProbability == 0.15 ? .null : JSON(maskProbability)),
      ("merge_aware", mergeAware ? true : .null), ("random_flip", images.flips ? true : .null),
      ("random_crop", images.padding == 0 ? .null : JSON(images.padding)),
    ]
  }
}
