import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

/// What a model says of rows of training data: losses, and classes.
public struct RowScores: Sendable {
  /// A row as tokens: labels of a language model, or targets of a classifier.
  public struct Row: Sendable {
    public var ids: [Int]
    public var labels: [Int]
    public var targets: [Double]

    public init(ids: [Int], labels: [Int] = [], targets: [Double] = []) {
      (self.ids, self.labels, self.targets) = (ids, labels, targets)
    }
  }

  /// The mean over tokens that count, or over rows.
  public private(set) var loss = 0.0
  /// Tokens or rows it is the mean of.
  public private(set) var count = 0
  /// Of classes; nil for numbers, of which the loss is the mean squared error.
  public private(set) var metrics: LabelMetrics?
  /// Scores of the classes, a row each.
  public private(set) var scores: [[Float]] = []

  /// Rows of a pass, and rows of scores of the vocabulary that are held at once.
  private static let (passRows, scoreRows) = (16, 256)

  /// Sends rows through a model with adapters.
  public init(_ model: Model, _ rows: [Row], adapters: [ActiveAdapter], progress: (Int, Int) -> Void = { _, _ in }) throws {
    var sum = 0.0
    if let classes = model.classCount, !model.isRegression { metrics = LabelMetrics(classes: classes) }
    for first in stride(from: 0, to: rows.count, by: Self.passRows) {
      try Interrupt.check()
      let batch = Array(rows[first..<min(first + Self.passRows, rows.count)])
      let runs = batch.map { TokenRun($0.ids, adapters: adapters) }
      let hidden = try model.transformer.hidden(runs)
      switch model.transformer.weights.head {
      case .language: sum += try language(model, batch, runs, hidden)
      case .classification(let head): sum += try classes(model, head, batch, runs, hidden)
      case .none: throw NibbleError.usage("\(path: model.path) has no head: there is nothing to judge")
      }
      progress(first + batch.count, rows.count)
    }
    loss = sum / Double(max(count, 1))
  }

  private mutating func language(
    _ model: Model, _ batch: [Row], _ runs: [TokenRun], _ hidden: UnsafePointer<Float>
  ) throws -> Double {
    var wanted: [(row: Int, target: Int)] = []
    var start = 0
    for row in batch {
      for index in 0..<max(0, row.labels.count - 1) where row.labels[index + 1] != Loss.ignored {
        wanted.append((start + index, row.labels[index + 1]))
      }
      start += row.ids.count
    }
    var sum = 0.0
    for first in stride(from: 0, to: wanted.count, by: Self.scoreRows) {
      let part = wanted[first..<min(first + Self.scoreRows, wanted.count)]
      let scores = try model.transformer.logits(hidden, rows: part.map(\.row), of: runs)
      for (index, one) in part.enumerated() {
        sum += Loss.negativeLogLikelihood(
          scores + index * model.vocabularySize, count: model.vocabularySize, target: one.target)
      }
    }
    count += wanted.count
    return sum
  }

  private mutating func classes(
    _ model: Model, _ head: ClassificationHead, _ batch: [Row], _ runs: [TokenRun], _ hidden: UnsafePointer<Float>
  ) throws -> Double {
    let classes = head.output.outputs
    let found = try model.transformer.classScores(hidden, head, of: runs)
    var sum = 0.0
    for (index, row) in batch.enumerated() {
      let own = Array(UnsafeBufferPointer(start: found + index * classes, count: classes))
      scores.append(own)
      switch head.problem {
      case .oneLabel:
        sum += Loss.oneLabel(own, labels: classes, targets: [Int(row.targets[0])])
      case .manyLabels: sum += Loss.manyLabels(own, targets: row.targets.map { Float($0) })
      case .regression: sum += Loss.regression(own, targets: row.targets.map { Float($0) })
      }
      metrics?.add(scores: own[...], targets: row.targets, head.problem)
    }
    count += batch.count
    return sum
  }
}
