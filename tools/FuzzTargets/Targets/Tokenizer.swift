import NibbleCore
import NibbleTokenizers

/// The files of a tokenizer; the choice says which. What opens encodes texts and gets them back.
func fuzzTokenizer(_ input: Input) throws {
  let forms = [
    ["tokenizer.json"], ["tokenizer.model"], ["vocab.json", "merges.txt"], ["vocab.txt", "tokenizer_config.json"],
    ["tokenizer.model", "special_tokens.json"], ["tokenizer_config.json", "tokenizer.json"],
  ]
  let names = forms[Int(input.choice) % forms.count]
  // What is not the last of several files ends at a zero.
  let parts = names.count == 1 ? [input.bytes] : input.parts
  let files = Dictionary(zip(names, parts)) { first, _ in first }
  let tokenizer = try Tokenizer(files: files, place: "there")
  for text in ["", "Hello, wörld! 123\n\n  don't  ", "日本語 e\u{301} \u{1F468}\u{200D}\u{1F469} <s></s>[CLS]"] {
    let ids = try tokenizer.encode(text, pair: input.choice > 127 ? "pair" : nil).ids
    for id in ids { _ = tokenizer.token(id) }
    _ = try tokenizer.decode(ids)
  }
}
