import NibbleCore
import NibbleTokenizers

/// Rows for classifiers of texts.
extension RowEncoder {
  /// A row for a classifier, and how many of its tokens were cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func classified(_ row: JSON, _ classes: Classes, place: String) throws -> (row: TrainingRow, cut: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    let texts = try JudgedTexts(row, place: place)
    func number(_ value: JSON?) throws -> Int {
      guard let label = value.flatMap(classes.number) else { throw fail(classes.unknown(value)) }
      return label
    }
    var targets: [Double]
    if classes.areNumbers {
      targets = try Self.numbers(row, classes.count, fail)
    } else if classes.areMany {
      guard let labels = row["labels"]?.array else { throw fail("labels is missing or not a list") }
      targets = Array(repeating: 0, count: classes.count)
      for label in labels {
        let own = try number(label)
        guard targets[own] == 0 else { throw fail("label \(label.text()) twice; labels are classes, not a number for each") }
        targets[own] = 1
      }
    } else {
      targets = [Double(try number(row["label"]))]
    }
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer for texts") }
    if let second = texts.second { return try pair(texts.first, second, targets, tokenizer, place) }
    let (ids, cut) = try marked(texts.first, place: place)
    return (TrainingRow(ids, targets: targets, place: place), cut)
  }

  /// Two texts as a classifier reads them together. Where they are too long, the longer is cut first, as Hugging Face's `longest_first` cuts.
  private func pair(
    _ first: String, _ second: String, _ targets: [Double], _ tokenizer: Tokenizer, _ place: String
  ) throws -> (row: TrainingRow, cut: Int) {
    let own = try (tokenizer.encode(first, addSpecialTokens: false).ids, tokenizer.encode(second, addSpecialTokens: false).ids)
    let marks = tokenizer.addingSpecialTokens(to: [], pair: []).ids.count
    let room = max(0, maximumLength - marks)
    var kept = (own.0.count, own.1.count)
    if kept.0 + kept.1 > room {
      let short = min(kept.0, kept.1)
      let ends = short > room / 2 ? (room / 2, room - room / 2) : (short, room - short)
      kept = kept.0 <= kept.1 ? ends : (ends.1, ends.0)
    }
    let encoding = tokenizer.addingSpecialTokens(to: Array(own.0.prefix(kept.0)), pair: Array(own.1.prefix(kept.1)))
    let types = encoding.typeIDs.contains { $0 != 0 } ? encoding.typeIDs : nil
    return (TrainingRow(encoding.ids, types: types, targets: targets, place: place), own.0.count + own.1.count - kept.0 - kept.1)
  }

  /// What a regression learns: `label`, or `labels` where there are several numbers.
  private static func numbers(_ row: JSON, _ count: Int, _ fail: (MessageText) -> NibbleError) throws -> [Double] {
    let given = row["labels"] ?? (row["label"] ?? row["score"]).map { .array([$0]) }
    let values = given?.array?.map { $0.double.flatMap { Float($0).isFinite ? $0 : nil } } ?? []
    guard values.count == count, !values.contains(nil) else {
      let wanted = count == 1 ? "label is no number" : "labels are no list of \(count) numbers"
      throw fail("\(wanted) in the range of float32, and the model is a regression")
    }
    return values.compactMap { $0 }
  }
}
