import NibbleCore
import NibbleTokenizers

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
    let row = try RowFields(row, place: place), (prompt, labels) = try twoTexts(row)
    try check(prompt, labels: labels, place: place)
    guard !prompt.isEmpty, !labels.isEmpty else { throw row.fail("the row is empty") }
    let (read, judged) = (cut(prompt), cut(labels))
    let written: [Int]
    do { written = try answer(judged) } catch let error as NibbleError { throw row.fail("\(error.text)") }
    let before = [Int](repeating: TrainingRow.ignored, count: read.count + 1)
    let types = read.map { _ in 0 } + written.map { _ in 1 }
    return (
      TrainingRow(read + written, types: types, labels: before + judged, place: place), prompt.count - read.count + labels.count - judged.count
    )
  }

  private func twoTexts(_ row: RowFields) throws -> (prompt: [Int], labels: [Int]) {
    if row.has("input_ids") { return try (row.numbers("input_ids"), row.numbers("labels")) }
    if let (prompt, answer) = try Self.promptAndAnswer(row) { return try (marked(prompt), ended(marked(answer))) }
    throw row.fitsNoKind(
      " that a model learns which reads one text and writes another: prompt and completion; instruction, input and output; input_ids and labels")
  }

  private func marked(_ text: String) throws -> [Int] { try texts().encode(text).ids }

  /// With what ends a text, whether or not the tokenizer adds it.
  private func ended(_ ids: [Int]) -> [Int] { end.map { ids.last == $0 ? ids : ids + [$0] } ?? ids }

  private func cut(_ ids: [Int]) -> [Int] {
    guard ids.count > maximumLength else { return ids }
    guard maximumLength > 1, let end, ids.last == end else { return Array(ids.prefix(maximumLength)) }
    return ids.prefix(maximumLength - 1) + [end]
  }
}
