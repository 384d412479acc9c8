import NibbleTokenizers
import Testing

@Suite("Where tokens stand in a text")
struct TextSpanTests {
  @Test("characters that a tokenizer changes are found again, spaces and what it drops are no token's", arguments: [
    ("bert", "Café DON'T  見る", "CaféDON'T見る"), ("bert", "İx \u{7F}y, ﬁn", "İxy,ﬁn"), ("bert", "[SEP] of", "of"),
    ("gpt2", "The  old naïve", "Theoldnaïve"), ("gpt2", "x", "x"), ("bert", "", ""),
  ])
  func texts(form: String, text: String, kept: String) throws {
    let tokenizer = try opened(form)
    let (ids, spans) = try #require(try tokenizer.located(text))
    #expect(ids == (try tokenizer.encode(text, addSpecialTokens: false).ids))
    #expect(ids.count == spans.count)
    #expect(spans.map { String(decoding: Array(text.utf8)[$0], as: UTF8.self) }.joined() == kept)
  }
}
