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

  /// Words with one class each, of texts that are drawn again as wholes: words of one text depend on each other.
  ///
  /// - Parameter words: how many each text has, one text after another
  /// - Throws: `.badInput` for no words, for counts that differ and for numbers that are no classes
  public init(_ predicted: [Int], actual: [Int], classes: Int, words: [Int]) throws {
    try self.init(predicted.map { [$0] }, actual.map { [$0] }, classes, undefined: 0, isSingle: true, words: words)
  }

  /// Texts with any number of classes each.
  ///
  /// - Parameter undefined: as in `LabelMetrics`; 1 as the scorer of SemEval-2021 task 6 has it
  /// - Throws: `.badInput` for no texts, for counts that differ and for numbers that are no classes
  public init(_ predicted: [Set<Int>], actual: [Set<Int>], classes: Int, undefined: Double = 0) throws {
    try self.init(predicted, actual, classes, undefined: undefined, isSingle: false)
  }

  private init(_ predicted: [Set<Int>], _ actual: [Set<Int>], _ classes: Int, undefined: Double, isSingle: Bool, words: [Int]? = nil) throws {
    guard predicted.count == actual.count else {
      throw NibbleError.badInput("\(predicted.count) predictions, but true classes of \(actual.count) texts")
    }
    guard words.map({ $0.reduce(0, +) == predicted.count }) ?? true else {
      throw NibbleError.badInput("\(predicted.count) predictions, but texts of other lengths")
    }
    guard !predicted.isEmpty else { throw NibbleError.badInput("there are no predictions to score") }
    for (text, own) in zip(predicted, actual).enumerated() {
      if let other = own.0.union(own.1).first(where: { !(0..<classes).contains($0) }) {
        throw NibbleError.badInput("text \(text + 1): there is no class \(other), only \(classes) from 0 on")
      }
    }
    var sums = ItemSums(width: LabelMetrics.width(classes))
    var metrics = LabelMetrics(classes: classes, undefined: undefined)
    for (predicted, actual) in zip(predicted, actual) {
      if words == nil { sums.add(ones: LabelMetrics.columns(predicted, actual, classes: classes)) }
      if isSingle, let predicted = predicted.first, let actual = actual.first {
        metrics.add(predicted: predicted, actual: actual)
      } else {
        metrics.add(predicted: predicted, actual: actual)
      }
    }
    var first = 0
    for count in words ?? [] {
      var row = [Double](repeating: 0, count: LabelMetrics.width(classes))
      for word in first..<first + count { for column in LabelMetrics.columns(predicted[word], actual[word], classes: classes) { row[column] += 1 } }
      sums.add(row)
      first += count
    }
    let whole = metrics
    self.metrics = whole
    scores = LabelMetrics.all.filter { $0.value(whole) != nil }.map { figure in
      let score =
        figure.key == "accuracy" && words == nil
        ? CorpusScore(meanOf: zip(predicted, actual).map { $0 == $1 ? 1 : 0 })
        : CorpusScore(items: nil, sums) { figure.value(LabelMetrics(sums: $0, of: whole)) ?? .nan }
      return (figure.label, figure.key, score)
    }
  }
}
