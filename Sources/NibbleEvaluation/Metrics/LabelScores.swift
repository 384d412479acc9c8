import NibbleCore

/// Predicted classes against true ones, text by text, so that every figure of `LabelMetrics` has its interval.
public struct LabelScores: Sendable {
  public let metrics: LabelMetrics
  /// Every figure that the texts have, by the key it has in JSON.
  public let scores: [(label: String, key: String, score: CorpusScore)]

  /// Texts with one class each.
  ///
  /// - Throws: `.badInput` for no texts, for counts that differ and for numbers that are no classes
  public init(_ predicted: [Int], actual: [Int], classes: Int) throws {
    try self.init(predicted.map { [$0] }, actual.map { [$0] }, classes, undefined: 0, isSingle: true)
  }

  /// Texts with any number of classes each.
  ///
  /// - Parameter undefined: as in `LabelMetrics`; 1 as the scorer of SemEval-2021 task 6 has it
  /// - Throws: `.badInput` for no texts, for counts that differ and for numbers that are no classes
  public init(_ predicted: [Set<Int>], actual: [Set<Int>], classes: Int, undefined: Double = 0) throws {
    try self.init(predicted, actual, classes, undefined: undefined, isSingle: false)
  }

  private init(_ predicted: [Set<Int>], _ actual: [Set<Int>], _ classes: Int, undefined: Double, isSingle: Bool) throws {
    guard predicted.count == actual.count else {
      throw NibbleError.badInput("\(predicted.count) predictions, but true classes of \(actual.count) texts")
    }
    guard !predicted.isEmpty else { throw NibbleError.badInput("there are no predictions to score") }
    for (text, own) in zip(predicted, actual).enumerated() {
      if let other = own.0.union(own.1).first(where: { !(0..<classes).contains($0) }) {
        throw NibbleError.badInput("text \(text + 1): there is no class \(other), only \(classes) from 0 on")
      }
    }
    var sums = ItemSums(width: LabelMetrics.width(classes))
    for (predicted, actual) in zip(predicted, actual) {
      var single: (actual: Int, predicted: Int)?
      if isSingle, let p = predicted.first, let a = actual.first { single = (a, p) }
      sums.add(ones: LabelMetrics.columns(predicted, actual, single: single, classes: classes))
    }
    let found = LabelMetrics(classes: classes, undefined: undefined, sums: sums.total)
    metrics = found
    scores = LabelMetrics.all.filter { $0.value(found) != nil }.map { figure in
      let score =
        figure.key == "accuracy"
        ? CorpusScore(meanOf: zip(predicted, actual).map { $0 == $1 ? 1 : 0 })
        : CorpusScore(items: nil, sums) {
          figure.value(LabelMetrics(classes: classes, undefined: undefined, sums: $0, whole: found)) ?? .nan
        }
      return (figure.label, figure.key, score)
    }
  }
}
