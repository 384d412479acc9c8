import NibbleCore
import NibbleModels

extension RowScores {
  /// The loss and the figures of classes or numbers, each with its interval.
  ///
  /// - Parameters:
  ///   - rows: those that were scored
  ///   - names: of the classes of tokens, which may be tags of entities
  /// - Throws: `.badInput` if nothing was scored
  public func figures(_ rows: [Row], names: [String] = []) throws -> [Figure] {
    guard count > 0 else { throw NibbleError.badInput("nothing was scored") }
    let loss = Figure(problem == .regression ? "mean squared error" : "loss", "loss", CorpusScore(meanOf: losses))
    switch problem {
    case nil where !ranks.isEmpty:
      let found = [("accuracy", "accuracy", 1), ("top-5 accuracy", "top_5_accuracy", 5)].map { label, key, first in
        Figure(label, key, CorpusScore(meanOf: ranks.map { $0 < first ? 1 : 0 }))
      }
      return [loss] + found
    case nil:
      guard !tokenTargets.isEmpty else { return [loss] }
      let labels = try LabelScores(scores.map(LabelMetrics.best), actual: tokenTargets, classes: scores[0].count, words: tokenCounts)
      return [loss] + (entities(names)?.scores.map { Figure($0.label, $0.key, $0.score) } ?? []) + Self.figures(labels)
    case .oneLabel:
      let predicted = scores.map(LabelMetrics.best), actual = rows.map { Int($0.targets[0]) }
      let sureness = zip(scores, predicted).map { Self.probabilities($0, areMany: false)[$1] }
      let calibration = try CalibrationError(sureness, isRight: zip(predicted, actual).map(==))
      return [loss] + Self.figures(try LabelScores(predicted, actual: actual, classes: scores[0].count))
        + [Figure("calibration error", "ece", calibration.score)]
    case .manyLabels:
      let actual = rows.map { row in Set(row.targets.indices.filter { row.targets[$0] > 0.5 }) }
      return [loss] + Self.figures(try LabelScores(scores.map(LabelMetrics.positive), actual: actual, classes: scores[0].count))
    case .regression:
      return [loss]
        + (try scores[0].indices.flatMap { number in
          let found = try Correlation(scores.map { Double($0[number]) }, actual: rows.map { $0.targets[number] })
          let (name, key) = scores[0].count == 1 ? ("", "") : (" of number \(number)", "_\(number)")
          return [Figure("Pearson" + name, "pearson" + key, found.pearson), Figure("Spearman" + name, "spearman" + key, found.spearman)]
        })
    }
  }

  /// Entities in the classes of tokens; nil where `names` are no tags.
  public func entities(_ names: [String]) -> EntityScores? {
    guard let classes = scores.first?.count, names.count == classes, !tokenTargets.isEmpty, let tags = EntityTags(names) else { return nil }
    let rows = tokenRows
    return EntityScores(rows.map(\.predicted), actual: rows.map(\.actual), tags)
  }

  /// The classes of the tokens that count, row by row; nothing for other models.
  public var tokenRows: [(predicted: [Int], actual: [Int])] {
    guard !tokenTargets.isEmpty else { return [] }
    var first = 0
    return tokenCounts.map { count in
      defer { first += count }
      return (scores[first..<first + count].map(LabelMetrics.best), Array(tokenTargets[first..<first + count]))
    }
  }

  private static func figures(_ labels: LabelScores) -> [Figure] { labels.scores.map { Figure($0.label, $0.key, $0.score) } }
}
