import NibbleCore
import NibbleEvaluation
import Testing
import TestSupport

@Suite("Answers that are marked in a text")
struct SpanTests {
  /// As tokenizers' truncation with a stride gives them.
  @Test("a long context is read in parts that overlap", arguments: [
    (10, 10, 3, [0..<10]), (11, 10, 3, [0..<10, 7..<11]), (20, 8, 4, [0..<8, 4..<12, 8..<16, 12..<20]), (5, 2, 0, [0..<2, 2..<4, 4..<5]),
    (0, 4, 1, [0..<0]),
  ] as [(Int, Int, Int, [Range<Int>])])
  func parts(count: Int, room: Int, overlap: Int, parts: [Range<Int>]) {
    #expect(SpanWindow.parts(of: count, room: room, overlap: overlap) == parts)
  }

  /// A window of [first token, question, context of four tokens, last token].
  private func window(_ begins: [Float], _ ends: [Float]) -> (window: SpanWindow, begins: [Float], ends: [Float]) {
    (SpanWindow(ids: Array(0..<7), types: Array(repeating: 0, count: 7), first: 2, tokens: 3..<7), begins, ends)
  }

  @Test("the best span lies in the context, runs forward and is not too long")
  func best() {
    let found = SpanSearch(longest: 2).best([window([0, 9, 5, 4, 3, 0, 9], [0, 9, 1, 0, 2, 6, 9])], mayBeNone: false)
    #expect(found == .init(tokens: 5..<7, score: 9, none: 0))
    #expect(SpanSearch(longest: 4).best([window([0, 9, 5, 4, 3, 0, 9], [0, 9, 1, 0, 2, 6, 9])], mayBeNone: false).tokens == 3..<7)
  }

  @Test("no answer is one where the first token has more than the best span in every window")
  func none() {
    let sure = window([4, 0, 1, 0, 0, 0, 0], [4, 0, 1, 0, 0, 0, 0]), unsure = window([1, 0, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0])
    #expect(SpanSearch().best([sure], mayBeNone: true) == .init(tokens: nil, score: 2, none: 8))
    #expect(SpanSearch().best([sure], mayBeNone: false).tokens == 3..<4)
    #expect(SpanSearch().best([sure, unsure], mayBeNone: true).tokens == 3..<4)
  }

  @Test("questions of SQuAD's own file come with their contexts")
  func squad() throws {
    let folder = TemporaryFolder()
    let path = folder.file("squad.json")
    let file = """
      {"data":[{"paragraphs":[{"context":"In a mill.","qas":[{"question":"Where?","answers":[{"text":"a mill","answer_start":3}]},
      {"question":"Why?","answers":[],"is_impossible":true}]}]}]}
      """
    try TextFile.write(file.replacing("\n", with: ""), to: path)
    let questions = try QaTask().questions(path, limit: nil)
    #expect(questions.map(\.context) == ["In a mill.", "In a mill."])
    #expect(questions.map(\.references) == [["a mill"], []])
  }
}
