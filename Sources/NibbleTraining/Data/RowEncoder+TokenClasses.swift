import NibbleCore
import NibbleTokenizers

/// Rows for models that classify tokens.
extension RowEncoder {
  /// A row for a model that classifies tokens, and how many of its tokens were cut off: `tokens`, a list of words, with `labels` or
  /// `ner_tags`, a class for each, or `input_ids` with `labels`, −100 for tokens without one. Of a word the first token has its class.
  ///
  /// - Returns: beside the row the numbers of the words, or of the given tokens, that have a class in it, and how many words have a class, but no token
  /// - Throws: `.badInput` naming the place
  public func tokensClassified(
    _ row: JSON, _ classes: Classes, place: String
  ) throws -> (row: TrainingRow, cut: Int, judged: [Int], lost: Int) {
    let row = try RowFields(row, place: place), (json, fail) = (row.json, row.fail)
    guard let given = (json["labels"] ?? json["ner_tags"] ?? json["tags"])?.array else { throw fail("labels is missing or not a list") }
    let targets = try given.map { label in
      if label.int == TrainingRow.ignored { return TrainingRow.ignored }
      guard let number = classes.number(label) else { throw fail(classes.unknown(label)) }
      return number
    }
    func made(_ ids: [Int], _ labels: [Int], cut: Int, words: [Int], lost: Int = 0) throws -> (row: TrainingRow, cut: Int, judged: [Int], lost: Int) {
      guard !ids.isEmpty else { throw fail("the row is empty") }
      return (TrainingRow(ids, labels: [TrainingRow.ignored] + labels, place: place), cut, words, lost)
    }
    if row.has("input_ids") {
      let ids = try row.numbers("input_ids")
      try check(ids, place: place)
      try row.check(labels: targets.count, of: ids.count, "tokens")
      let kept = Array(targets.prefix(maximumLength))
      return try made(
        Array(ids.prefix(maximumLength)), kept, cut: max(0, ids.count - maximumLength), words: kept.indices.filter { kept[$0] != TrainingRow.ignored })
    }
    guard let words = (json["tokens"] ?? json["words"])?.array?.map(\.string), !words.contains(nil) else {
      throw fail("tokens is missing or not a list of words")
    }
    try row.check(labels: targets.count, of: words.count, "words")
    let tokenizer = try texts()
    var ids: [Int] = [], labels: [Int] = [], owners: [Int] = [], lost = 0
    for (index, word) in words.compactMap({ $0 }).enumerated() {
      let own = try tokenizer.encode(index == 0 ? word : " " + word, addSpecialTokens: false).ids
      ids += own
      labels += own.indices.map { $0 == 0 ? targets[index] : TrainingRow.ignored }
      owners += own.map { _ in index }
      if own.isEmpty, targets[index] != TrainingRow.ignored { lost += 1 }
    }
    guard !ids.isEmpty else { throw fail("the row is empty") }
    let kept = min(ids.count, max(0, maximumLength - tokenizer.addingSpecialTokens(to: []).ids.count))
    let inner = Array(ids.prefix(kept)), whole = tokenizer.addingSpecialTokens(to: inner).ids
    let first = (0...max(0, whole.count - kept)).first { whole[$0..<min($0 + kept, whole.count)].elementsEqual(inner) } ?? 0
    let before = [Int](repeating: TrainingRow.ignored, count: first)
    let behind = [Int](repeating: TrainingRow.ignored, count: max(0, whole.count - first - kept))
    let judged = (0..<kept).filter { labels[$0] != TrainingRow.ignored }.map { owners[$0] }
    return try made(whole, before + labels.prefix(kept) + behind, cut: ids.count - kept, words: judged, lost: lost)
  }
}
