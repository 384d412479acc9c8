import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("nibble tokenize")
struct TokenizeTests {
  let folder = TemporaryFolder()
  let mistral = fixture("tokenizers/mistral-v3")
  let gpt2 = fixture("tokenizers/gpt2")
  /// Opens in no time.
  let small = fixture("tokenizers/small/llama3-like")

  func run(_ words: String..., from tokenizer: String? = nil) throws -> Program.Result {
    try Program.run(["tokenize", "--tokenizer", tokenizer ?? gpt2] + words)
  }

  @Test("a text to ids, and back")
  func text() throws {
    #expect(try run("Hello world").output == "15496 995\n")
    #expect(try run("--decode", "15496 995").output == "Hello world\n")
    #expect(try run("--decode", "15496,995", "220").output == "Hello world \n")
    #expect(try run("", "--json", from: small).code == 0)
  }

  @Test("special tokens are put around a text, or not")
  func special() throws {
    #expect(try run("hi", from: mistral).output == "1 12782\n")
    #expect(try run("hi", "--no-special", from: mistral).output == "12782\n")
    #expect(try run("<|endoftext|>").output == "50256\n")
    #expect(try run("<|endoftext|>", "--special_as_text").output == "27 91 437 1659 5239 91 29\n")
    #expect(try run("--decode", "15496 50256", "--no-special").output == "Hello\n")
  }

  @Test("one JSON document")
  func json() throws {
    let result = try run("Hello world", "--pair", "again", "--json", from: fixture("tokenizers/bert"))
    let json = try JSON.parse(result.output)
    #expect(json["ids"] == [101, 7592, 2088, 102, 2153, 102])
    #expect(json["tokens"] == ["[CLS]", "hello", "world", "[SEP]", "again", "[SEP]"])
    #expect(json["type_ids"] == [0, 0, 0, 0, 1, 1])
    #expect(json["source"] == "tokenizer.json" && json["vocabulary_size"] == 30522)
    let decoded = try run("--decode", "15496", "--json")
    #expect(try JSON.parse(decoded.output)["text"] == "Hello")
  }

  @Test("rows in, rows out, line for line")
  func rows() throws {
    let file = try folder.write(
      "rows.jsonl", #"{"text": "hi", "kept": 1}"# + "\n\n" + #"{"text": "<s>\u2028é", "pair": "x"}"# + "\r\n" + #"{"text": ""}"#)
    let result = try run("--file", file, from: fixture("tokenizers/roberta"))
    let lines = try result.output.split(separator: "\n").map { try JSON.parse(String($0)) }
    #expect(lines.count == 3)
    #expect(lines[0]["ids"] == [3592] && lines[0]["ids_with_special"] == [0, 3592, 2] && lines[0]["decoded"] == "hi")
    #expect(lines[1]["ids_special_as_text"] != lines[1]["ids"] && lines[1]["ids"]?.array?.first == 0)
    #expect(lines[2]["ids"] == [] && lines[2]["ids_with_special"] == [0, 2])
    // Readers that take U+2028 for the end of a line read the same rows.
    #expect(result.output.utf8.max() ?? 0 < 0x80)
    let ids = try folder.write("ids.jsonl", lines.map { $0.setting("text", to: .null).text() }.joined(separator: "\n"))
    let texts = try run("--file", ids, "--decode", from: fixture("tokenizers/roberta")).output.split(separator: "\n")
    #expect(try JSON.parse(String(texts[1]))["text"] == lines[1]["decoded"])
  }

  @Test("the tokenizer in a block file")
  func blockFile() throws {
    let path = folder.file("s.nbl")
    #expect(try Program.run(["quantize", stories, "-o", path]).code == 0)
    let inside = try run("Once upon a time", from: path)
    let beside = try run("Once upon a time", from: stories)
    #expect(inside.code == 0 && inside.output == beside.output)
  }

  @Test("usage errors are 2")
  func usage() throws {
    let file = try folder.write("rows.jsonl", "{}")
    for words in [
      [], ["a", "b"], ["a", "--file", file], ["--pair", "x", "--file", file], ["--decode", "x"],
      ["a", "--decode", "--pair", "b"],
    ] {
      let result = try Program.run(["tokenize", "--tokenizer", small] + words)
      #expect(result.code == 2 && result.errorLines.count == 1, "\(words): \(result.errors)")
    }
    #expect(try Program.run(["tokenize", "text"]).code == 2)
    #expect(try run("a", from: "").code == 2)
  }

  @Test(
    "bad rows are 3, and say where they are",
    arguments: [
      (#"{"text": 1}"#, false), ("{", false), ("[]", false), (#"{"ids": 1}"#, true), (#"{"ids": [1.5]}"#, true),
      (#"{"ids": [-1]}"#, true),
      (#"{"ids": [700]}"#, true), (#"{"ids": [1e30]}"#, true), (#"{"ids": [99999999999999999999]}"#, true),
      (#"{"text": "\ud800"}"#, false),
    ])
  func badRows(_ row: String, _ decode: Bool) throws {
    let file = try folder.write("rows.jsonl", #"{"text": "a", "ids": [1]}"# + "\n" + row + "\n")
    let result = try Program.run(["tokenize", "--tokenizer", small, "--file", file] + (decode ? ["--decode"] : []))
    #expect(result.code == 3 && result.errorLines.count == 1)
    #expect(result.errors.contains("\(file):2"), "\(result.errors)")
  }

  @Test("a place without a tokenizer is 3")
  func nothing() throws {
    for path in [folder.path, "/no/such/place", "/dev/null"] {
      let result = try run("a", from: path)
      #expect(result.code == 3 && result.errorLines.count == 1 && result.errors.contains(path))
    }
    #expect(try run("--file", "/no/such/rows", from: small).code == 3)
  }
}
