import NibbleCore
import NibbleTokenizers

/// Rows for models that fill masks.
extension RowEncoder {
  /// A row for a model that fills masks, and how many of its tokens were cut off: `text`, or `input_ids`, of which other tokens are hidden each time;
  /// or `input_ids` with `labels`, of each token the one to be found there, −100 where none is.
  ///
  /// - Throws: `.badInput` naming the place
  public func masked(_ row: JSON, place: String) throws -> (row: TrainingRow, cut: Int) {
    let row = try RowFields(row, place: place)
    if row.has("input_ids") {
      let ids = try row.numbers("input_ids"), given = try row.numbersIfAny("labels")
      try check(ids, labels: given ?? [], place: place)
      guard !ids.isEmpty else { throw row.fail("the row is empty") }
      let kept = Array(ids.prefix(maximumLength)), cut = ids.count - kept.count
      guard let given else { return (try maskable(kept, place: place), cut) }
      try row.check(labels: given.count, of: ids.count, "tokens")
      return (TrainingRow(kept, labels: [TrainingRow.ignored] + given.prefix(maximumLength), place: place), cut)
    }
    guard !row.has("label"), !row.has("labels") else {
      throw row.fail("a label is for a classifier, but the base fills masks; \(.numLabels) adds a classification head")
    }
    guard row.has("text") else { throw row.fitsNoKind(" of a model that fills masks: text; input_ids; input_ids and labels") }
    let (ids, cut) = try marked(row.text("text"), place: place)
    return (try maskable(ids, place: place), cut)
  }

  /// Rows of a plain text, each between the tokens that the tokenizer puts around a text. Nothing is cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func maskedRows(of text: String, place: String) throws -> [TrainingRow] {
    let tokenizer = try texts(), ids = try segments(of: text).reduce(into: [Int]()) { $0 += try tokenizer.encode(String($1), addSpecialTokens: false).ids }
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
    try check(ids, place: place)
    let labels = ids.map { tokenizer.isSpecial($0) || tokenizer.special.named.contains($0) ? TrainingRow.ignored : $0 }
    var row = TrainingRow(ids, labels: [TrainingRow.ignored] + labels, place: place)
    row.masking = masking
    return row
  }
}
