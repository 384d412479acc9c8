import NibbleCore
import NibbleTokenizers
import NibbleTraining

/// Rows of training data; the choice says for what.
func fuzzRows(_ input: Input) throws {
  var encoder = RowEncoder(tokenizer, end: 2, vocabulary: 512, maximumLength: 1 + Int(input.choice >> 3))
  let templates = ChatTemplate.allCases
  // SentencePiece reads marks as text.
  _ = try? encoder.use(templates[Int(input.choice) % templates.count], breaksMarks: true)
  let isClassified = input.choice & 4 == 4
  let classes = Classes(3, names: input.choice & 1 == 0 ? [] : ["no", "yes", "ähm"], areMany: input.choice & 2 == 2)
  try JSONLines.forEachRow(Folder.write("rows.jsonl", input.bytes)) { row, place in
    let (made, cut) =
      isClassified ? try encoder.classified(row, classes, place: place) : try encoder.language(row, place: place)
    expect(!made.ids.isEmpty && made.ids.count <= encoder.maximumLength && cut >= 0, "a row has a length")
    expect(isClassified || made.labels.count == made.ids.count, "a label a token")
    expect(made.ids.allSatisfy { (0..<512).contains($0) }, "tokens the model knows")
  }
}

private let tokenizer = try? Tokenizer(files: ["tokenizer.model": fixture("stories260K/tokenizer.model")], place: "stories260K")
