import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleModels

/// A training run from its first step to the adapter it leaves.
public final class Finetuning {
  /// The outcome of a run.
  public struct Result: Sendable {
    public var steps = 0
    /// NaN where no step learned anything.
    public var smoothedLoss = 0.0
    /// Of what was written.
    public var validation: [(key: String, value: Double)] = []
    /// Of the model before the first step; empty without rows to validate on.
    public var validationBefore: [(key: String, value: Double)] = []
    /// The step whose adapter was written, where that is not the last.
    public var bestStep: Int?
    public var tokens = 0
    /// Numbers that were trained.
    public var trained = 0
    /// Things to know about what came out.
    public var warnings: [Warning] = []
    /// Seconds spent in the parts of the steps.
    public var parts: [(name: String, seconds: Double)] = []

    public var validationLoss: Double? { validation.first?.value }
  }

  let model: Model
  let options: FinetuneOptions
  let valid: [TrainingRow]
  private let start: AdapterFile?
  let trained: Trained
  let isFull: Bool
  /// Further figures of each validation, of the model with what is trained attached.
  public var measure: (([ActiveAdapter]) throws -> [(key: String, value: Double)])?
  let run: TrainingRun
  private let data: Digest128
  private let threads: Int
  private var knownIdentity: Digest128?
  /// Of all images to train and to validate on, which are held as numbers.
  let imageBytes: Int

  /// - Parameters:
  ///   - start: an adapter to train on, which brings rank, alpha, method and targets
  ///   - threads: for hashing a base whose file does not record its identity
  public init(
    _ model: Model, _ options: FinetuneOptions, train: [TrainingRow], valid: [TrainingRow] = [], start: AdapterFile? = nil,
    threads: Int = availableCores
  ) throws {
    (self.model, self.options, self.start) = (model, options, start)
    self.valid = TrainingRow.judged(valid, seed: options.run.seed, probability: options.run.maskProbability)
    isFull = options.adapter.method == .full
    imageBytes = (train + valid).reduce(0) { sum, row in
      if case .image(let image) = row.input { sum + 4 * image.values.count } else { sum }
    }
    guard !isFull || start == nil else {
      throw NibbleError.usage("\(.method, "full") trains no adapter; leave out \(.initAdapter)")
    }
    guard !isFull || model.newHead == nil else {
      throw NibbleError.usage(
        "\(.method, "full") writes a model with the head it has; a new head (\(.numLabels)) goes with an adapter")
    }
    self.threads = threads
    if let start {
      let identity = try model.checkpoint.claimedIdentity ?? model.checkpoint.hash(threads: threads)
      knownIdentity = identity
      warnings = try BaseMatch(model.checkpoint, [start], identity: identity, anyBase: options.anyBase).warnings
    }
    trained =
      isFull
      ? try Trained(everythingOf: model) : try start.map { try Trained($0, on: model) } ?? Trained(options.adapter, on: model)
    guard (0..<1).contains(options.run.dropout) else {
      throw NibbleError.usage("\(.loraDropout, options.run.dropout) is not from 0 to below 1")
    }
    guard !options.run.mergeAware || options.run.dropout == 0 else {
      throw NibbleError.usage("\(.mergeAware) merges factors whole; leave out \(.loraDropout)")
    }
    guard !options.run.mergeAware || !isFull else { throw NibbleError.usage("\(.mergeAware) trains an adapter; \(.method, "full") trains none") }
    if options.run.dropout > 0, let odd = trained.modules.values.first(where: { $0.method.dropoutKey == nil }) {
      throw NibbleError.usage("\(.loraDropout, options.run.dropout): \(odd.method.name) has no dropout of its inputs")
    }
    run = try TrainingRun(model, trained, train, options.run)
    if !isFull, start == nil {
      try trained.checkPatterns(options.adapter, on: model)
      let vectors = trained.vectors
      let trainsBias = model.linears.contains { $0.bias.map { vectors[$0.id] != nil } ?? false }
      if options.adapter.bias != .none, !trainsBias {
        warnings.append(.init(.unused, "\(.bias, options.adapter.bias.rawValue): these layers have no biases, none is trained"))
      }
      if options.adapter.dropout > 0, trained.stackedFactors(of: model)?.isEmpty == false {
        warnings.append(
          .init(
            .compatibility,
            "\(.loraDropout, options.adapter.dropout) is trained with and not written down: PEFT does not load it beside factors of stacked experts"))
      }
      let isStabilized = TrainableMethod.named(options.adapter.method.rawValue)?.isRankStabilized == true
      if let unread = trained.unreadExpert(of: model, isStabilized: isStabilized) {
        warnings.append(
          .init(
            .compatibility,
            model.checkpoint.family?.joinsExperts == false
              ? "PEFT on transformers 5 stacks experts and does not load the factors of \(subject: unread); nibble attaches and merges the adapter"
              : "PEFT on transformers 5 stacks experts and does not load the factors of \(subject: unread): it takes plain LoRA scaled by alpha / rank, needs "
                + "gate and up projections together, and must not find factors of a plain MLP in other layers, or of experts that every token takes; "
                + "nibble attaches and merges the adapter"))
      }
    }
    let hash = XXH3()
    for row in train {
      (row.ids + [-1] + row.labels).withUnsafeBytes { hash.update($0) }
      if case .image(let image) = row.input {
        [image.channels, image.height, image.width].withUnsafeBytes { hash.update($0) }
        image.values.withUnsafeBytes { hash.update($0) }
      }
      row.targets.withUnsafeBytes { hash.update($0) }
    }
    data = hash.digest128
  }

  /// The base's content. A plan does not need it.
  private func baseIdentity() throws -> Digest128 {
    if let knownIdentity { return knownIdentity }
    let identity = try model.checkpoint.claimedIdentity ?? model.checkpoint.hash(threads: threads)
    knownIdentity = identity
    return identity
  }

  private func record() throws -> RunRecord {
    RunRecord(
      base: try baseIdentity(), data: data, start: try start.map { "\(try $0.identity()) \($0.config.json.text())" },
      compute: model.engine.compute.rawValue, options, steps: run.steps)
  }

  /// Things to know before it starts.
  public private(set) var warnings: [Warning] = []

  /// Numbers that are trained.
  public var parameters: Int { trained.tensors.reduce(0) { $0 + $1.values.count } }
  /// Modules that are adapted.
  public var adapted: Int { trained.modules.count + trained.tables.count }

  /// Steps of the whole run.
  public var steps: Int { run.steps }

  /// Compares with the run in `folder`, which is to be resumed.
  ///
  /// - Returns: what to know about a run that becomes longer
  /// - Throws: `.usage` naming the option that is another
  public func checkResumes(_ folder: TrainingFolder) throws -> [Warning] { try folder.checkContinues(record()).warnings }

  /// Trains to the end. A first signal ends the run after the step in hand, with a checkpoint to resume from; a second one ends the process.
  ///
  /// - Parameters:
  ///   - record: the options, as `run.yaml` has them
  ///   - resume: continues from the folder's last checkpoint
  ///   - validated: is given the loss of each validation, and the step it follows; 0 before the first
  ///   - step: is given each step's report, and the exponential mean of the losses; an error it throws stops the run, which can be resumed
  public func train(
    in folder: TrainingFolder, record text: String = "", resume: Bool, validated: (_ step: Int, _ loss: Double) -> Void = { _, _ in },
    _ step: (StepReport, _ smoothed: Double) throws -> Void
  ) throws -> Result {
    let record = try record()
    try folder.start(text, record)
    do { return try Interrupt.finishing { try train(folder, record.identity, resume: resume, validated, step) } } catch let error as NibbleError
      where error.kind != .interrupted && error.kind != .terminated
    {
      try folder.discard()
      throw error
    }
  }

  private func train(
    _ folder: TrainingFolder, _ identity: Digest128, resume: Bool, _ validated: (Int, Double) -> Void, _ step: (StepReport, _ smoothed: Double) throws -> Void
  ) throws -> Result {
    var result = Result()
    result.trained = parameters
    try run.optimizer.prepare(in: folder.path)
    if resume { _ = try folder.restore(run, identity: identity) }
    var history = RunHistory(resume ? try folder.metrics() : [], best: options.bestFigure)
    if run.done == 0, history.before == nil { _ = try validate(folder, &history, validated) }
    var isOver = options.patience.map { history.stale >= $0 } ?? false
    var seconds = 0.0
    while run.done < run.steps, !isOver {
      if let signal = Interrupt.error { throw try stop(signal, folder, identity, history) }
      let report = try run.step()
      result.tokens += report.tokens
      seconds += report.seconds
      let clock = run.clock.seconds
      result.parts = StepClock.Part.allCases.map { ($0.rawValue, clock[$0] ?? 0) }
      result.parts.append(("rest", max(0, seconds - result.parts.reduce(0) { $0 + $1.seconds })))
      history.add(report.loss)
      try folder.append(report.json)
      try step(report, history.smoothed)
      let isDue = run.done == run.steps || options.validationSteps.map { run.done % $0 == 0 } ?? false
      let isBest = isDue ? try validate(folder, &history, validated) : false
      isOver = options.patience.map { history.stale >= $0 } ?? false
      if run.done % options.saveSteps == 0 || isBest || isOver || run.done == run.steps { try save(folder, identity, history) }
    }
    result.steps = run.done
    result.smoothedLoss = history.smoothed
    if history.losses.allSatisfy(\.isNaN) {
      result.warnings.append(
        .init(.data, model.fillsMasks ? "no token was hidden in any step, nothing is learned: a greater \(.mlmProbability) or more steps" : "no step learned anything"))
    }
    result.validationBefore = history.before ?? []
    if let last = history.validations.last, last.step > 0 { result.validation = last.figures }
    if needsBest, let best = history.best, best.step != run.done {
      try folder.restore(run, identity: identity, step: best.step)
      result.bestStep = best.step
      result.validation = history.validations.last { $0.step == best.step }?.figures ?? []
    }
    for file in model.checkpoint.files { try file.checkUnchanged() }
    try run.optimizer.averaged {
      if trained.isDead(model.engine) {
        result.warnings.append(.init(.precision, "every second factor is zero: the adapter changes nothing"))
      }
      try write(to: folder)
    }
    return result
  }

  /// Validates what is trained as it is now, where there are rows for it.
  ///
  /// - Returns: whether this was the best validation so far
  private func validate(_ folder: TrainingFolder, _ history: inout RunHistory, _ validated: (Int, Double) -> Void) throws -> Bool {
    guard !valid.isEmpty else { return false }
    let found = try run.validate(valid)
    guard found.count > 0 else {
      throw NibbleError.badInput("\(path: valid[0].place): no token of the \(valid.count) validation rows is learned")
    }
    let more = try measure.map { try run.measured($0) } ?? []
    let figures = found.figures + more.filter { one in !found.figures.contains { $0.key == one.key } }
    guard figures.contains(where: { $0.key == options.bestFigure }) else {
      let keys = figures.map(\.key).joined(separator: ", ")
      throw NibbleError.usage("\(.metricForBestModel, options.bestFigure): validations have no such figure; they have \(keys)")
    }
    try folder.append(.object([("step", JSON(run.done))] + figures.map { ("valid_" + $0.key, JSON($0.value)) }))
    validated(run.done, found.loss)
    return history.add(validation: figures, run.done)
  }

  /// Saves a checkpoint, and returns the error that ends the run.
  private func stop(
    _ signal: NibbleError, _ folder: TrainingFolder, _ identity: Digest128, _ history: RunHistory
  ) throws -> NibbleError {
    guard run.done > 0 else { return NibbleError(signal.kind, signal.text + " before the first step; \(.resume) begins it") }
    try save(folder, identity, history)
    return NibbleError(
      signal.kind, signal.text + " after step \(run.done) of \(run.steps), with a checkpoint saved; \(.resume) continues from it")
  }

  private func save(_ folder: TrainingFolder, _ identity: Digest128, _ history: RunHistory) throws {
    guard folder.savedStep != run.done else { return }
    for file in model.checkpoint.files { try file.checkUnchanged() }
    try folder.save(run, identity: identity, keeping: options.savedLimit, best: history.best?.step)
    try folder.write("loss.svg", LossCurve.svg(history.losses, validation: history.validations.map { ($0.step, $0.figures[0].value) }))
  }

  private var needsBest: Bool { options.patience != nil || options.writesBest }

  private func write(to folder: TrainingFolder) throws {
    if isFull { return try folder.write(trained, of: model.checkpoint) }
    for (name, bytes) in options.tokenizerFiles { try folder.write(name, String(decoding: bytes, as: UTF8.self)) }
    var binding = AdapterBinding(to: model.checkpoint, identity: try baseIdentity())
    binding.head = model.newHead?.json
    try folder.write(trained.folder(options.adapter, start: start?.config.json, on: model, binding: binding, rule: run.rule))
  }
}
