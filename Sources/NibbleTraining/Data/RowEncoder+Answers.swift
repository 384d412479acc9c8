import NibbleCore

/// Rows for a model whose encoder reads a prompt and whose decoder writes the answer.
extension RowEncoder {
  /// A prompt and what is written to it, both as the tokenizer marks whole texts, and how many tokens of either were cut off. As transformers cuts
  /// texts, what ends one stays.
  ///
  /// - Parameter answer: what the decoder reads so that it is judged by labels
  /// - Throws: `.badInput` naming the place
  func answered(
    _ row: JSON, _ answer: (_ labels: [Int]) throws -> [Int], place: String
  ) throws -> (row: TrainingRow, cut: Int) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    let (prompt, labels) = try twoTexts(row, place)
    try check(prompt, labels, place)
    guard !prompt.isEmpty, !labels.isEmpty else { throw fail("the row is empty") }
    let (read, judged) = (cut(prompt), cut(labels))
    let written: [Int]
    do { written = try answer(judged) } catch let error as NibbleError { throw fail("\(error.text)") }
    let before = [Int](repeating: TrainingRow.ignored, count: read.count + 1)
    let types = read.map { _ in 0 } + written.map { _ in 1 }
    return (
      TrainingRow(read + written, types: types, labels: before + judged, place: place), prompt.count - read.count + labels.count - judged.count
    )
  }

  private func twoTexts(_ row: JSON, _ place: String) throws -> (prompt: [Int], labels: [Int]) {
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.badInput("\(path: place): \(reason)") }
    func text(_ key: String) throws -> String {
      guard let text = row[key]?.string else { throw fail("\(key: key) is missing or not a text") }
      return text
    }
    func numbers(_ key: String) throws -> [Int] {
      guard let list = row[key]?.array?.map(\.int), !list.contains(nil) else { throw fail("\(key: key) is missing or not a list of whole numbers") }
      return list.compactMap { $0 }
    }
    guard row.members != nil else { throw fail("a row is no JSON object") }
    if row["input_ids"] != nil { return (try numbers("input_ids"), try numbers("labels")) }
    if row["completion"] != nil { return (try marked(text("prompt"), place), try ended(marked(text("completion"), place))) }
    if row["output"] != nil {
      if let input = row["input"], input != .null, input.string == nil { throw fail("input is not a text") }
      let prompt = try Self.alpaca(text("instruction"), row["input"]?.string ?? "")
      return (try marked(prompt, place), try ended(marked(text("output"), place)))
    }
    throw fail(
      "keys \((row.members ?? []).map(\.key).sorted().map(quoted).joined(separator: ", ")) fit no kind of row that a model learns which reads one "
        + "text and writes another: prompt and completion; instruction, input and output; input_ids and labels")
  }

  private func marked(_ text: String, _ place: String) throws -> [Int] {
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer; give rows with input_ids") }
    return try tokenizer.encode(text).ids
  }

  /// With what ends a text, whether or not the tokenizer adds it.
  private func ended(_ ids: [Int]) -> [Int] { end.map { ids.last == $0 ? ids : ids + [$0] } ?? ids }

  private func cut(_ ids: [Int]) -> [Int] {
    guard ids.count > maximumLength else { return ids }
    guard maximumLength > 1, let end, ids.last == end else { return Array(ids.prefix(maximumLength)) }
    return ids.prefix(maximumLength - 1) + [end]
  }
}
