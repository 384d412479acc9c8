import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleModels

/// Trains on rows, step by step.
package final class TrainingRun {
  package let options: RunOptions
  package let trained: Trained
  package let steps: Int
  private let pass: TrainingPass
  private let rows: [TrainingRow]
  let optimizer: Optimizer
  /// What the method does beside gradients.
  let rule: (any TrainingRule)?
  private let schedule: Schedule
  private var order: RowOrder

  /// - Throws: `.usage` where nothing would be learned
  package init(_ model: Model, _ trained: Trained, _ rows: [TrainingRow], _ options: RunOptions) throws {
    self.options = options
    self.trained = trained
    self.rows = rows
    let isLanguage = model.head.scorer != nil
    guard !rows.isEmpty else { throw NibbleError.badInput("there are no rows to train on") }
    guard !isLanguage || rows.contains(where: { $0.learned > 0 }) else {
      throw NibbleError.badInput(
        "no token of the \(rows.count) rows is learned: \(path: rows[0].place) is the first; \(.showBatch) shows the mask")
    }
    guard !trained.tensors.isEmpty else { throw NibbleError.usage("nothing is trained") }
    if let refusal = options.optimizer.choice.method.refusal(options.optimizer) { throw NibbleError.usage(refusal) }
    guard options.noiseAlpha == 0 || model.network is any TokenNetwork else {
      throw NibbleError.usage("\(.neftuneNoiseAlpha) is noise on the embeddings of tokens; \(path: model.path) has none")
    }
    guard options.noiseAlpha == 0 || !model.answersPrompts else {
      throw NibbleError.usage("\(.neftuneNoiseAlpha) is not implemented for models that read one text and write another; \(path: model.path) is one")
    }
    if options.labelSmoothing > 0, case .classification(let head) = model.head, head.problem != .oneLabel {
      throw NibbleError.usage("\(.labelSmoothing) is for one class of several, not for regression or many labels")
    }
    guard options.labelSmoothing == 0 || !model.marksSpans else {
      throw NibbleError.usage("\(.labelSmoothing) is for classes and tokens, not for answers marked in a text")
    }
    try trained.group(options.optimizer, on: model)
    let wanted = options.steps(rows: rows.count)
    guard wanted < Double(Int32.max) else {
      throw NibbleError.usage("\(.epochs, options.epochs) of \(rows.count) rows are too many steps")
    }
    steps = Int(wanted)
    schedule = options.schedule(steps: steps)
    let grouping = options.groupsByLength ? RowOrder.Grouping(lengths: rows.map(\.input.length), batch: options.batchSize) : nil
    order = RowOrder(rows.count, seed: options.shuffles ? options.seed : nil, grouping: grouping)
    let rounded = options.mergeAware ? try RoundedWeights(model, trained) : nil
    pass = TrainingPass(model, trained, checkpointing: options.checkpointing, rounded: rounded)
    optimizer = Optimizer(options.optimizer, trained.tensors, team: model.engine.team)
    rule = try trained.rule(steps: steps)
    optimizer.more = (rule?.state ?? []) + trained.statistics.values.sorted { ByteName($0.name) < ByteName($1.name) }.map { ($0.name, $0.values) }
  }

  /// Figures of rows that are not trained on.
  package struct Validation: Sendable {
    /// The mean over learned tokens, or rows.
    package var loss = 0.0
    /// Tokens or rows it is the mean of.
    package var count = 0
    /// Of classifiers.
    package var metrics: LabelMetrics?
    /// Of classifiers of tokens whose classes are tags.
    var entities: EntityScores?

    /// Every figure, by its key.
    package var figures: [(key: String, value: Double)] {
      [("loss", loss)] + (entities?.scores.map { ($0.key, $0.score.value) } ?? []) + (metrics?.figures.map { ($0.key, $0.value) } ?? [])
    }
  }

  /// Figures of `rows`, of the numbers that would be written now.
  package func validate(_ rows: [TrainingRow]) throws -> Validation { try pass.model.naming { try optimizer.averaged { try figures(rows) } } }

  /// What `body` finds of the model with what is trained, in the numbers that would be written now.
  package func measured<Found>(_ body: ([ActiveAdapter]) throws -> Found) throws -> Found {
    try optimizer.averaged {
      try pass.round()
      return try body([pass.current()])
    }
  }

  private func figures(_ rows: [TrainingRow]) throws -> Validation {
    var found = Validation()
    try pass.round()
    let head: ClassificationHead? =
      if case .classification(let head) = pass.model.head { head } else { nil }
    if let head, head.problem != .regression { found.metrics = LabelMetrics(classes: head.output.outputs) }
    // Of tokens that have a class.
    var (predicted, actual): ([Int], [Int]) = ([], [])
    let seen: ((_ scores: [Float], _ label: Int) -> Void)? =
      pass.model.tokenClassCount == nil
      ? nil
      : {
        predicted.append(LabelMetrics.best($0))
        actual.append($1)
      }
    for first in stride(from: 0, to: rows.count, by: max(1, options.batchSize)) {
      let batch = rows[first..<min(first + max(1, options.batchSize), rows.count)]
      if pass.model.marksSpans {
        found.loss += try pass.spans(Batch(batch.map(\.input)), targets: batch.map(\.targets), learns: false) * Double(batch.count)
        found.count += batch.count
        continue
      }
      guard let head else {
        let own = try pass.language(batch.map(\.run), labels: batch.map(\.labels), learns: false, seen: seen)
        found.loss += own.loss * Double(own.tokens)
        found.count += own.tokens
        continue
      }
      let own = try pass.classes(Batch(batch.map(\.input)), targets: batch.map(\.targets), learns: false)
      found.loss += own.loss * Double(batch.count)
      found.count += batch.count
      let count = head.output.outputs
      for (row, example) in batch.enumerated() {
        found.metrics?.add(scores: Array(own.scores[row * count..<(row + 1) * count]), targets: example.targets, head.problem)
      }
    }
    found.loss /= Double(max(found.count, 1))
    if let classes = pass.model.tokenClassCount {
      var metrics = LabelMetrics(classes: classes)
      for (one, other) in zip(predicted, actual) { metrics.add(predicted: one, actual: other) }
      found.metrics = metrics
      found.entities = EntityTags(pass.model.classNames).map { tags in
        func texts(_ classes: [Int]) -> [[Int]] {
          var first = 0
          return rows.map { row in
            defer { first += row.learned }
            return Array(classes[first..<first + row.learned])
          }
        }
        return EntityScores(texts(predicted), actual: texts(actual), tags)
      }
    }
    return found
  }

  /// Tokens that a step processes on average.
  var tokensAStep: Double {
    Double(rows.reduce(0) { $0 + $1.ids.count }) / Double(max(rows.count, 1)) * Double(options.batchSize * options.accumulation)
  }

  /// Seconds spent so far in each part of a pass.
  package var clock: StepClock { pass.clock }

  /// Steps taken so far.
  package var done: Int { optimizer.steps }

  /// The next step.
  ///
  /// - Throws: `.quality` naming step and layer where a number is not finite; the last checkpoint is still good
  package func step() throws -> StepReport {
    let number = done + 1
    do { return number > 1 ? try finiteStep() : try pass.model.naming(finiteStep) } catch let error as NibbleError where error.kind == .quality {
      // A failure in the first step comes from the base, the adapter or the data, not from the learning rate.
      let advice: MessageText = number > 1 ? "; a lower \(.learningRate) may help" : ""
      throw NibbleError.quality("step \(number): \(error.text)\(advice)")
    }
  }

  /// The row as it is learned at a place of the run.
  private func augmented(_ row: TrainingRow, place: Int) throws -> TrainingRow {
    if row.masking != nil { return row.hidden(.training, place: place, seed: options.seed, probability: options.maskProbability) }
    guard !options.images.isNone, case .image(let image) = row.input else { return row }
    var row = row
    row.input = .image(try options.images.applied(to: image, CountedRandom(seed: options.seed, stream: 1 << 32), place: place))
    return row
  }

  /// The mean loss of rows, and its gradients, times `scale`; nil where no token of them is learned.
  private func learn(_ batch: [TrainingRow], _ scale: Float) throws -> Double? {
    switch pass.model.head {
    case .language, .masked, .tokens:
      let found = try pass.language(batch.map(\.run), labels: batch.map(\.labels), scale: scale)
      return found.tokens > 0 ? found.loss : nil
    case .spans: return try pass.spans(Batch(batch.map(\.input)), targets: batch.map(\.targets), scale: scale)
    case .classification, .none: return try pass.classes(Batch(batch.map(\.input)), targets: batch.map(\.targets), scale: scale).loss
    }
  }

  private func finiteStep() throws -> StepReport {
    let started = monotonicSeconds()
    let index = optimizer.steps
    optimizer.clearGradients()
    try pass.round()
    var loss = 0.0, tokens = 0, learned = 0
    for micro in 0..<options.accumulation {
      let first = (index * options.accumulation + micro) * options.batchSize
      if options.dropout > 0 {
        pass.dropout = Dropout(rate: options.dropout, seed: options.seed, pass: UInt64(index * options.accumulation + micro))
      }
      if options.noiseAlpha > 0 {
        pass.noise = EmbeddingNoise(alpha: options.noiseAlpha, seed: options.seed, pass: UInt64(index * options.accumulation + micro))
      }
      pass.labelSmoothing = options.labelSmoothing
      pass.movesStatistics = true
      defer { (pass.dropout, pass.noise, pass.labelSmoothing, pass.movesStatistics) = (nil, nil, 0, false) }
      let batch = try (first..<first + options.batchSize).map { try augmented(rows[order.row($0)], place: $0) }
      tokens += batch.reduce(0) { $0 + $1.ids.count }
      let scale = 1 / Float(options.accumulation)
      guard let own = try learn(batch, scale) else { continue }
      loss += own / Double(options.accumulation)
      learned += 1
    }
    // Gradients are those of a loss of 0 where nothing is learned; what is reported is the mean of the others.
    if learned > 0, learned < options.accumulation { loss *= Double(options.accumulation) / Double(learned) }
    loss += pass.clock.measure(.trained) { rule?.addLoss() ?? 0 }
    let norm = pass.clock.measure(.optimizer) { optimizer.clip() }
    guard loss.isFinite, norm.isFinite else {
      let first = trained.tensors.first { !LayerKernels.allFinite($0.gradient.start, count: $0.gradient.count) }
      throw NibbleError.quality(
        "the loss is \(loss), the gradient's norm \(norm)" + (first.map { ", that of \(subject: $0.name) the first" } ?? ""))
    }
    let rate = options.optimizer.learningRate * schedule.factor(index)
    try pass.clock.measure(.optimizer) {
      try optimizer.step(rate: rate)
      rule?.stepped(index + 1)
      for tensor in trained.tensors where !LayerKernels.allFinite(tensor.values.start, count: tensor.values.count) {
        throw NibbleError.quality("the update makes \(subject: tensor.name) NaN or infinite")
      }
    }
    return StepReport(
      step: index + 1, loss: learned > 0 ? loss : .nan, gradientNorm: norm, learningRate: rate, tokens: tokens, seconds: monotonicSeconds() - started)
  }
}
