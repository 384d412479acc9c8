import NibbleCore

/// Classes by their words: which of them a model that writes text finds likeliest behind a text.
public struct LabelWords: Sendable {
  public let words: [String]
  private let format: PromptFormat

  /// How a row is asked where nothing else is said.
  public static let format = "Text: {text}\nLabel:"

  /// - Throws: `.usage` for fewer than two words, and for two that are the same
  public init(_ words: [String], _ format: PromptFormat) throws {
    guard words.count > 1 else { throw NibbleError.usage("\(words.count) classes: there is nothing to choose between") }
    if let twice = Dictionary(grouping: words, by: { $0 }).first(where: { $0.value.count > 1 }) {
      throw NibbleError.usage("class \(quoted(twice.key)) is there twice")
    }
    (self.words, self.format) = (words, format)
  }

  /// Rows with a `label`: a class by its word or its number.
  ///
  /// - Throws: `.badInput` naming file and line
  public func questions(_ path: String, limit: Int?) throws -> [ChoiceQuestion] {
    var all: [ChoiceQuestion] = []
    try JSONLines.forEachRow(path) { row, place in
      guard all.count < limit ?? .max else { return }
      let number = row["label"]?.int ?? row["label"]?.string.flatMap { words.firstIndex(of: $0) }
      guard let number, words.indices.contains(number) else {
        throw NibbleError.badInput("\(path: place): label \(row["label"]?.text() ?? "missing: it") is none of the \(words.count) classes")
      }
      all.append(
        ChoiceQuestion(
          context: try format.prompt(row, place: place), continuations: words.map { " " + $0 }, choices: words, answer: number, place: place))
    }
    guard !all.isEmpty else { throw NibbleError.badInput("\(path: path): no rows in it") }
    return all
  }

  /// Figures of classes. A class is chosen by the log-probability of its word.
  ///
  /// - Throws: `.badInput` for no answers
  public func figures(_ found: ChoiceAnswers) throws -> [Figure] {
    let predicted = found.answers.map(\.choice), actual = found.questions.map(\.answer)
    let labels = try LabelScores(predicted, actual: actual, classes: words.count)
    let calibration = try CalibrationError(
      zip(found.answers, predicted).map { $0.probabilities[$1] }, isRight: zip(predicted, actual).map(==))
    return labels.scores.map { Figure($0.label, $0.key, $0.score) } + [Figure("calibration error", "ece", calibration.score)]
  }
}
