import Foundation
import NibbleCore
import NibbleEvaluation
import NibbleModels
import TestSupport
import Testing

@Suite("Perplexity")
struct EvaluationTests {
  typealias Window = Perplexity.Window

  @Test(
    "windows score every token once, whatever context, stride and mark", arguments: [false, true],
    [(4, 3), (4, 1), (4, 2), (8, 5), (2, 1), (50, 49)])
  func windows(hasMark: Bool, sizes: (context: Int, stride: Int)) {
    let documents = [20, 1, 0, 11]
    let windows = Perplexity().cut(documents, hasMark: hasMark, context: sizes.context, stride: sizes.stride)
    for (index, count) in documents.enumerated() {
      let own = windows.filter { $0.document == index }
      #expect(own.flatMap { Array($0.firstScored..<$0.tokens.upperBound) } == Array((0..<count).dropFirst(hasMark ? 0 : 1)))
      for window in own {
        #expect(window.tokens.count + (hasMark ? 1 : 0) <= sizes.context)
        #expect(window.firstScored > window.tokens.lowerBound - (hasMark ? 1 : 0))
      }
    }
  }

  @Test("only first windows leave the rest out")
  func first() {
    var perplexity = Perplexity()
    perplexity.windows = .first
    let windows = perplexity.cut([9, 2], hasMark: true, context: 4, stride: 3)
    #expect(windows.map(\.tokens) == [0..<3, 0..<2])
    #expect(windows.map(\.firstScored) == [0, 0])
  }

  @Test("more context makes it smaller, and its parts add up")
  func contexts() throws {
    let model = try model("stories260K")
    let ids = try JSON.parse(try bytes(of: fixture("stories260K/golden.json")))["greedy_ids"]?.array?.compactMap(\.int) ?? []
    var perplexity = Perplexity()
    var losses: [Double] = []
    for (context, stride) in [(8, 7), (16, 4), (512, 511)] {
      perplexity.context = context
      perplexity.stride = stride
      let report = try perplexity.run([Array(ids.dropFirst())], mark: 1, model: model)
      #expect(report.loss.count == ids.count - 1 && report.unscored == 0)
      losses.append(report.loss.value)
    }
    #expect(losses[0] > losses[1] && losses[1] > losses[2])
  }

  @Test("documents are rows of JSON Lines, or what stands between dividers")
  func documents() throws {
    let folder = TemporaryFolder()
    let rows = try folder.write("a.jsonl", "{\"text\": \"one\\ntwo\"}\r\n\n{\"text\": \"three\", \"label\": 1}")
    #expect(try Documents(rows).documents.map(\.text) == ["one\ntwo", "three"])
    let divided = try folder.write("a.txt", "one\ntwo\n<|endoftext|>\n\nthree\n<|endoftext|>\n<|endoftext|>\n")
    #expect(try Documents(divided).documents.map(\.text) == ["one\ntwo", "three"])
    let other = try folder.write("c.txt", "one\r\ntwo\r\n<|endoftext|> \r\n\r\nthree\r\n<|endoftext|>")
    #expect(try Documents(other).documents.map(\.text) == ["one\r\ntwo", "three"])
    #expect(try Documents(other).documents.map(\.place) == [other + ":1", other + ":5"])
    let whole = try folder.write("b.txt", "one\ntwo\n")
    #expect(try Documents(whole).documents.map(\.text) == ["one\ntwo\n"])
  }

  @Test(
    "data that cannot be used is named by file and line",
    arguments: [
      ("a.jsonl", "{\"text\": \"a\"}\n{\"txt\": 1}", ":2"), ("a.jsonl", "{\"text\": 3}", ":1"), ("a.jsonl", "[", ":1"),
      ("a.txt", "", "a.txt"), ("a.jsonl", "\n\n", "a.jsonl"),
    ])
  func wrong(name: String, text: String, place: String) throws {
    let folder = TemporaryFolder()
    let path = try folder.write(name, text)
    let error = #expect(throws: NibbleError.self) { try Documents(path) }
    #expect(error?.kind == .badInput && error?.message.contains(place) == true, "\(error?.message ?? "")")
  }
}
