import NibbleCore

/// A list of labels for a text, as in SemEval-2021 task 6: judged by F1 as its scorer counts.
public struct LabelsTask: AnswerTask {
  public let format = "{text} <tech:>"
  public let search = AnswerSearch(maximumNew: 64)
  private let list: LabelList

  /// - Parameter labels: every label there is
  /// - Throws: `.badInput` for no labels, an empty one, and two that are the same
  public init(_ labels: [String]) throws { list = try LabelList(labels) }

  /// Rows with a list `labels`, which may be empty.
  public func items(_ path: String, _ format: PromptFormat, limit: Int?) throws -> [AnswerItem] {
    try rows(path, limit: limit) { row, place in
      guard let given = row["labels"]?.array?.map(\.string), !given.contains(nil) else {
        throw NibbleError.badInput("\(path: place): a row without a list of texts 'labels'")
      }
      let labels = given.compactMap { $0 }
      for label in labels where !list.labels.contains(label) {
        throw NibbleError.badInput("\(path: place): label \(quoted(label)) is not in the list of \(list.labels.count) labels")
      }
      return AnswerItem(prompt: try format.prompt(row, place: place), references: labels, place: place)
    }
  }

  public func shown(_ item: AnswerItem) -> String? { item.references.joined(separator: ", ") }

  public func figures(_ items: [AnswerItem], _ answers: [String]) throws -> [Figure] {
    let number = Dictionary(list.labels.enumerated().map { ($1, $0) }) { first, _ in first }
    let actual = items.map { Set($0.references.compactMap { number[$0] }) }
    let wanted = ["f1_micro", "f1_macro", "precision_micro", "recall_micro", "accuracy"]
    let found = try LabelScores(answers.map { list.read($0).labels }, actual: actual, classes: list.labels.count, undefined: 1).scores
    return wanted.compactMap { key in found.first { $0.key == key }.map { Figure(key == "accuracy" ? "exact lists" : $0.label, key, $0.score) } }
  }
}
