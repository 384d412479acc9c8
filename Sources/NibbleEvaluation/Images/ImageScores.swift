import NibbleCore
import NibbleModels

/// What a classifier makes of images that are handed over a few at a time, so that no more are held.
public struct ImageScores: Sendable {
  /// −log of the probability of the right class, an image each.
  public private(set) var losses: [Double] = []
  /// Scores of the classes, an image each.
  public private(set) var scores: [[Float]] = []
  /// The right classes.
  public private(set) var actual: [Int] = []

  public init() {}

  public var count: Int { losses.count }

  /// Images of one pass.
  public static let passImages = 16

  /// Sends images through a model with adapters.
  ///
  /// - Parameter rows: with one class each
  public mutating func add(_ model: Model, _ rows: [RowScores.Row], adapters: [ActiveAdapter] = []) throws {
    let found = try RowScores(model, rows, adapters: adapters)
    losses += found.losses
    scores += found.scores
    actual += rows.map { Int($0.targets[0]) }
  }

  /// The classes with the greatest scores.
  public var predicted: [Int] { scores.map(LabelMetrics.best) }

  /// The loss and the figures of classes, each with its interval, and what was confused with what.
  ///
  /// Top-5 is the share of images whose right class is among the five with the greatest scores; of equal scores those of lesser classes
  /// count as greater. Models of five classes or fewer have none.
  ///
  /// - Throws: `.badInput` if nothing was scored
  public func figures() throws -> (figures: [Figure], labels: LabelMetrics) {
    guard let classes = scores.first?.count else { throw NibbleError.badInput("no image was scored") }
    let predicted = predicted
    let labels = try LabelScores(predicted, actual: actual, classes: classes)
    let sureness = zip(scores, predicted).map { RowScores.probabilities($0, areMany: false)[$1] }
    let calibration = try CalibrationError(sureness, isRight: zip(predicted, actual).map(==))
    var figures = [Figure("loss", "loss", CorpusScore(meanOf: losses))]
    for one in labels.scores {
      figures.append(Figure(one.label, one.key, one.score))
      if one.key == "accuracy", classes > 5 { figures.append(Figure("top-5 accuracy", "top_5", topFive)) }
    }
    figures.append(Figure("calibration error", "ece", calibration.score))
    return (figures, labels.metrics)
  }

  private var topFive: CorpusScore {
    CorpusScore(
      meanOf: zip(scores, actual).map { scores, right in
        let before = scores.indices.count { scores[$0] > scores[right] || scores[$0] == scores[right] && $0 < right }
        return before < 5 ? 1 : 0
      })
  }
}
