import NibbleCore
import Testing

@testable import NibbleEvaluation

@Suite("Entities in tags")
struct EntityTests {
  /// Expected are the entities of seqeval 1.2.2 in its default mode (`get_entities`), ends behind the last word.
  @Test(
    "begin and end where seqeval has them",
    arguments: [
      ("B-P I-P O B-P", "P 0..<2, P 3..<4"), ("I-P I-P I-L", "P 0..<2, L 2..<3"), ("O I-P B-P I-L", "P 1..<2, P 2..<3, L 3..<4"),
      ("B-P E-P E-P I-P", "P 0..<2, P 2..<3, P 3..<4"), ("S-P S-P I-P O", "P 0..<1, P 1..<2, P 2..<3"), ("B I O I", "_ 0..<2, _ 3..<4"), ("O O", ""),
    ])
  func found(_ text: String, _ expected: String) throws {
    let words = text.split(separator: " ").map(String.init)
    let names = Array(Set(words + ["O", "B-P"])).sorted()
    let tags = try #require(EntityTags(names))
    let found = tags.entities(words.compactMap { names.firstIndex(of: $0) })
    #expect(found.map { "\($0.type) \($0.words)" }.joined(separator: ", ") == expected)
  }

  @Test("are in names that are tags only", arguments: [["NOUN", "O"], ["O"], [], ["B-P", "LABEL_1"], ["O-P", "B-P"]])
  func none(_ names: [String]) { #expect(EntityTags(names) == nil) }

  @Test("count right where type, first and last word are; shares of nothing are 0")
  func scores() throws {
    let tags = try #require(EntityTags(["O", "B-P", "I-P", "B-L"]))
    let found = EntityScores([[1, 2, 0, 3], [0]], actual: [[1, 2, 0, 1], [3]], tags)
    #expect(found.types == [.init(type: "L", right: 0, predicted: 1, actual: 1), .init(type: "P", right: 1, predicted: 1, actual: 2)])
    #expect(found.scores.map(\.score.value) == [0.5, 1.0 / 3, 0.4])
    let nothing = EntityScores([[0]], actual: [[0]], tags)
    #expect(nothing.scores.map(\.score.value) == [0, 0, 0])
  }
}

@Suite("Where answers are in a text")
struct AnswerPlaceTests {
  @Test("characters are Unicode scalars, as SQuAD counts them; without a start the first place counts")
  func places() throws {
    func answer(_ text: String, _ start: Int?) throws -> Range<Int>? {
      try SpanQuestion(question: "", context: "naïve 😀 cat, cat", references: [text], start: start, place: "p").answer()
    }
    #expect(try answer("cat", 13) == 17..<20 && answer("cat", nil) == 12..<15 && answer("😀", 6) == 7..<11)
    #expect(throws: NibbleError.self) { try answer("cat", 12) }
    #expect(throws: NibbleError.self) { try answer("cat", 99) }
    #expect(throws: NibbleError.self) { try answer("dog", nil) }
    #expect(try SpanQuestion(question: "", context: "x", references: [], place: "p").answer() == nil)
  }
}
