import NibbleCore
import NibbleTokenizers

/// Rows for language models.
extension RowEncoder {
  /// A row for a language model, and how many of its tokens were cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func language(_ row: JSON, place: String) throws -> (row: TrainingRow, cut: Int) {
    if let answer { return try answered(row, answer, place: place) }
    let (ids, labels, dropped) = try parts(RowFields(row, place: place))
    try check(ids, labels: labels, place: place)
    guard !ids.isEmpty else { throw NibbleError.badInput("\(path: place): the row is empty") }
    let cut = max(0, ids.count - maximumLength) + dropped
    return (TrainingRow(Array(ids.prefix(maximumLength)), labels: Array(labels.prefix(maximumLength)), place: place), cut)
  }

  /// Tokens and labels of a row, and how many tokens behind them are dropped already.
  private func parts(_ row: RowFields) throws -> (ids: [Int], labels: [Int], dropped: Int) {
    if row.has("input_ids") {
      let ids = try row.numbers("input_ids")
      guard let labels = try row.numbersIfAny("labels") else { return (ids, ids, 0) }
      try row.check(labels: labels.count, of: ids.count, "tokens")
      return (ids, labels, 0)
    }
    if RowMessages.are(in: row.json) {
      let (ids, labels) = try conversation(row)
      return (ids, labels, 0)
    }
    if let (prompt, answer) = try Self.promptAndAnswer(row) { return try self.answer(to: prompt, answer) }
    guard row.has("text") else {
      throw row.fitsNoKind(": text; prompt and completion; instruction, input and output; messages; conversations; input_ids and labels")
    }
    guard !row.has("label"), !row.has("labels") else {
      throw row.fail("a label is for a classifier, but the base has no classification head; \(.numLabels) adds one")
    }
    let (ids, dropped) = try cutTokens(row.text("text"))
    let ended = self.ended(ids)
    return (ended, ended, dropped)
  }

  /// A question and its answer under either pair of names; nil for a row without.
  static func promptAndAnswer(_ row: RowFields) throws -> (prompt: String, answer: String)? {
    if row.has("completion") { return try (row.text("prompt"), row.text("completion")) }
    guard row.has("output") else { return nil }
    return try (alpaca(row.text("instruction"), row.textIfAny("input") ?? ""), row.text("output"))
  }

  /// The format of Stanford's Alpaca.
  private static func alpaca(_ instruction: String, _ input: String) -> String {
    let task =
      input.isEmpty
      ? "Below is an instruction that describes a task. Write a response that appropriately completes the request."
      : "Below is an instruction that describes a task, paired with an input that provides further context. "
        + "Write a response that appropriately completes the request."
    let more = input.isEmpty ? "" : "### Input:\n\(input)\n\n"
    return "\(task)\n\n### Instruction:\n\(instruction)\n\n\(more)### Response:\n"
  }

  private func answer(to prompt: String, _ answer: String) throws -> (ids: [Int], labels: [Int], dropped: Int) {
    let (question, cutQuestion) = try cutTokens(prompt), (open, cutAnswer) = try cutTokens(answer, marks: false)
    let ignored = [Int](repeating: TrainingRow.ignored, count: question.count), rest = ended(open)
    return (question + rest, (trainsOnPrompt ? question : ignored) + rest, cutQuestion + cutAnswer)
  }

  /// Rows of a plain text. All of it is learned: a long text becomes several rows, and nothing is cut off.
  ///
  /// - Throws: `.badInput` naming the place
  public func rows(of text: String, place: String) throws -> [TrainingRow] {
    guard answer == nil else {
      throw NibbleError.badInput("\(path: place): a model that reads one text and writes another learns rows with both, not plain text")
    }
    var ids: [Int] = []
    do {
      for segment in segments(of: text) { ids += try encode(String(segment), marks: ids.isEmpty) }
      ids = ended(ids)
    } catch let error as NibbleError where error.kind == .badInput && error.path == nil {
      throw NibbleError.badInput("\(path: place): \(error.text)")
    }
    try check(ids, place: place)
    return stride(from: 0, to: ids.count, by: max(1, maximumLength)).map { first in
      let own = Array(ids[first..<min(first + maximumLength, ids.count)])
      return TrainingRow(own, labels: own, place: place)
    }
  }

  /// The first tokens of a text, at least as many as a row can have, and the number of tokens after them.
  private func cutTokens(_ text: String, marks: Bool = true) throws -> (ids: [Int], dropped: Int) {
    var (ids, dropped) = ([Int](), 0)
    for segment in segments(of: text) {
      let own = try encode(String(segment), marks: marks && ids.isEmpty)
      if ids.count < maximumLength { ids += own } else { dropped += own.count }
    }
    return (ids, dropped)
  }

  private func ended(_ ids: [Int]) -> [Int] { end.map { ids + [$0] } ?? ids }
}
