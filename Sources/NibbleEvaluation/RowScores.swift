import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

/// Losses and class scores of rows of training data.
public struct RowScores: Sendable {
  /// A row: tokens or an image, with labels of a language model, or targets of a classifier.
  public struct Row: Sendable {
    public var input: ModelInput
    public var labels: [Int]
    public var targets: [Double]

    public init(_ input: ModelInput, labels: [Int] = [], targets: [Double] = []) {
      (self.input, self.labels, self.targets) = (input, labels, targets)
    }

    public init(ids: [Int], labels: [Int] = [], targets: [Double] = []) {
      self.init(.tokens(ids), labels: labels, targets: targets)
    }
  }

  /// Of each token that counts, or of each row.
  public private(set) var losses: [Double] = []
  /// Their mean; of a regression the mean squared error.
  public var loss: Double { losses.reduce(0, +) / Double(max(count, 1)) }
  /// Tokens or rows it is the mean of.
  public var count: Int { losses.count }
  /// Of classes; nil for numbers.
  public private(set) var metrics: LabelMetrics?
  let problem: ClassificationHead.Problem?
  /// The class of each token that counts, of models that classify tokens.
  public private(set) var tokenTargets: [Int] = []
  /// How many of them each row has.
  public private(set) var tokenCounts: [Int] = []
  /// How many tokens score above each token that was to be found, of models that fill masks.
  public private(set) var ranks: [Int] = []
  /// Scores of the classes, a row or a token each.
  public private(set) var scores: [[Float]] = []

  /// The probability of each class: the softmax of the scores, or the logistic function of each where a text can have several classes.
  public static func probabilities(_ scores: [Float], areMany: Bool) -> [Double] {
    if areMany { return scores.map { 1 / (1 + exp(-Double($0))) } }
    let greatest = Double(scores.max() ?? 0)
    let powers = scores.map { exp(Double($0) - greatest) }
    let sum = powers.reduce(0, +)
    return powers.map { $0 / sum }
  }

  /// Rows of a pass, and rows of scores of the vocabulary that are held at once.
  private static let (passRows, scoreRows) = (16, 256)

  /// Sends rows through a model with adapters.
  public init(_ model: Model, _ rows: [Row], adapters: [ActiveAdapter], progress: (Int, Int) -> Void = { _, _ in }) throws {
    problem = if case .classification(let head) = model.head { head.problem } else { nil }
    if let classes = model.tokenClassCount ?? model.classCount, !model.isRegression { metrics = LabelMetrics(classes: classes) }
    for first in stride(from: 0, to: rows.count, by: Self.passRows) {
      try Interrupt.check()
      let part = Array(rows[first..<min(first + Self.passRows, rows.count)])
      let batch = try Batch(part.map(\.input), adapters: adapters)
      let hidden = try model.naming { try model.network.hidden(batch, tape: nil) }
      switch model.head {
      case .language, .masked, .tokens: if let head = model.head.scorer { try tokens(model.network, head, part, batch, hidden) }
      case .classification(let head): try classes(model.network, head, part, batch, hidden)
      case .spans: throw NibbleError.usage("\(path: model.path) marks answers to questions: it scores no rows")
      case .none: throw NibbleError.usage("\(path: model.path) has no head: there is nothing to score")
      }
      progress(first + part.count, rows.count)
    }
  }

  private mutating func tokens(
    _ network: any Network, _ head: RowHead, _ rows: [Row], _ batch: Batch, _ hidden: UnsafePointer<Float>
  ) throws {
    var wanted: [(row: Int, target: Int)] = []
    var start = 0
    for row in rows {
      let before = wanted.count
      for index in 0..<max(0, row.labels.count - 1) where row.labels[index + 1] != Loss.ignored {
        wanted.append((start + index, row.labels[index + 1]))
      }
      tokenCounts.append(wanted.count - before)
      start += row.input.length
    }
    for first in stride(from: 0, to: wanted.count, by: Self.scoreRows) {
      let part = wanted[first..<min(first + Self.scoreRows, wanted.count)]
      let scores = try network.scores(hidden, head, rows: part.map(\.row), of: batch), count = head.outputs
      for (index, one) in part.enumerated() {
        losses.append(Loss.negativeLogLikelihood(scores + index * count, count: count, target: one.target))
        if case .masked = network.head { ranks.append(Self.rank(of: one.target, scores + index * count, count)) }
        guard case .tokens = network.head else { continue }
        let own = Array(UnsafeBufferPointer(start: scores + index * count, count: count))
        tokenTargets.append(one.target)
        self.scores.append(own)
        metrics?.add(scores: own, targets: [Double(one.target)], .oneLabel)
      }
    }
  }

  /// Of equal scores the first counts as the greater.
  private static func rank(of target: Int, _ scores: UnsafePointer<Float>, _ count: Int) -> Int {
    let own = scores[target]
    return (0..<count).count { scores[$0] > own || scores[$0] == own && $0 < target }
  }

  private mutating func classes(
    _ network: any Network, _ head: ClassificationHead, _ rows: [Row], _ batch: Batch, _ hidden: UnsafePointer<Float>
  ) throws {
    let classes = head.output.outputs
    let found = try network.classScores(hidden, head, of: batch)
    for (index, row) in rows.enumerated() {
      let own = Array(UnsafeBufferPointer(start: found + index * classes, count: classes))
      scores.append(own)
      switch head.problem {
      case .oneLabel:
        losses.append(Loss.oneLabel(own, labels: classes, targets: [Int(row.targets[0])]))
      case .manyLabels: losses.append(Loss.manyLabels(own, targets: row.targets.map { Float($0) }))
      case .regression: losses.append(Loss.regression(own, targets: row.targets.map { Float($0) }))
      }
      metrics?.add(scores: own, targets: row.targets, head.problem)
    }
  }
}
