import NibbleCore
import NibbleTokenizers

/// Rows for models that fill masks.
extension RowEncoder {
  /// A row for a model that fills masks, and how many of its tokens were cut off: `text`, or `input_ids`, of which other tokens are hidden each time;
  /// or `input_ids` with `labels`, of each token the one to be found there, −100 where none is.
  ///
  /// - Throws: `.badInput` naming the place
  public func masked(_ row: JSON, place: String) throws -> (row: TrainingRow, cut: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    func numbers(_ key: String, _ isGood: (Int) -> Bool, _ expected: MessageText) throws -> [Int]? {
      guard let value = row[key], value != .null else { return nil }
      guard let list = value.array?.map(\.int), !list.contains(nil) else { throw fail("\(key: key) is not a list of whole numbers") }
      let own = list.compactMap { $0 }
      if let bad = own.first(where: { !isGood($0) }) { throw fail("\(key: key): \(bad) is \(expected)") }
      return own
    }
    guard row.members != nil else { throw fail("a row is no JSON object") }
    let known = 0..<vocabulary
    if let ids = try numbers("input_ids", known.contains, "not in the model's vocabulary of \(vocabulary)") {
      guard !ids.isEmpty else { throw fail("the row is empty") }
      let kept = Array(ids.prefix(maximumLength)), cut = max(0, ids.count - maximumLength)
      let given = try numbers(
        "labels", { $0 == TrainingRow.ignored || known.contains($0) }, "neither −100 nor in the model's vocabulary of \(vocabulary)")
      guard let given else { return (try maskable(kept, place: place), cut) }
      guard given.count == ids.count else { throw fail("labels has \(given.count) entries for \(ids.count) tokens") }
      return (TrainingRow(kept, labels: [TrainingRow.ignored] + given.prefix(maximumLength), place: place), cut)
    }
    guard row["label"] == nil, row["labels"] == nil else {
      throw fail("a label is for a classifier, but the base fills masks; \(.numLabels) adds a classification head")
    }
    guard let value = row["text"] else {
      throw fail(
        "keys \((row.members ?? []).map(\.key).sorted().map(quoted).joined(separator: ", ")) fit no kind of row of a model that fills masks: text; "
          + "input_ids; input_ids and labels")
    }
    guard let text = value.string else { throw fail("text is not a text") }
    let (ids, cut) = try marked(text, place: place)
    return (try maskable(ids, place: place), cut)
  }

  /// Rows of a plain text, each between the tokens that the tokenizer puts around a text. Nothing is cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func maskedRows(of text: String, place: String) throws -> [TrainingRow] {
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer; give rows with input_ids") }
    let ids = try segments(of: text).reduce(into: [Int]()) { $0 += try tokenizer.encode(String($1), addSpecialTokens: false).ids }
    let room = maximumLength - tokenizer.addingSpecialTokens(to: []).ids.count
    guard room > 0 else { throw NibbleError.badInput("\(path: place): \(.maxLength, maximumLength) leaves no room for a text's own tokens") }
    return try stride(from: 0, to: ids.count, by: room).map { first in
      try maskable(tokenizer.addingSpecialTokens(to: Array(ids[first..<min(first + room, ids.count)])).ids, place: place)
    }
  }

  /// A row whose tokens are hidden anew each time, all but those with a meaning of their own.
  private func maskable(_ ids: [Int], place: String) throws -> TrainingRow {
    guard let tokenizer, let masking else {
      throw NibbleError.badInput("\(path: place): the base's tokenizer has no mask to hide tokens behind; give rows with input_ids and labels")
    }
    if let bad = ids.first(where: { !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): token id \(bad) is not in the model's vocabulary of \(vocabulary)")
    }
    let labels = ids.map { tokenizer.isSpecial($0) || tokenizer.special.named.contains($0) ? TrainingRow.ignored : $0 }
    var row = TrainingRow(ids, labels: [TrainingRow.ignored] + labels, place: place)
    row.masking = masking
    return row
  }
}
