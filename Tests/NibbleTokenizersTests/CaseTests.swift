import Foundation
import NibbleCore
import NibbleTokenizers
import TestSupport
import Testing

@Suite("Tokenizers give the tokens that the reference libraries give")
struct CaseTests {
  static let forms = [
    "gpt2", "roberta", "bert", "bert/vocab.txt", "mistral-v3", "stories512", "small/llama3-like", "small/llama2-like",
    "small/suffix", "small/prefix", "small/metaspace", "small/wordlevel", "small/unigram",
  ]

  /// The folder of cases of a tokenizer, which may be named by one of its files.
  static func cases(_ form: String, _ name: String) -> String {
    let folder = form.hasSuffix(".txt") ? (form as NSString).deletingLastPathComponent : form
    return tokenizers + "/" + folder + "/" + name
  }

  @Test("texts", arguments: forms)
  func texts(_ form: String) throws {
    let tokenizer = try opened(form)
    for row in try rows(Self.cases(form, "cases.jsonl"), as: Case.self) { try check(row, tokenizer) }
  }

  @Test("spellings of special tokens", arguments: forms.prefix(6))
  func specialSpellings(_ form: String) throws {
    let tokenizer = try opened(form)
    for row in try rows(Self.cases(form, "special_cases.jsonl"), as: Case.self) { try check(row, tokenizer) }
  }

  @Test("pairs", arguments: forms)
  func pairs(_ form: String) throws {
    let path = Self.cases(form, "pair_cases.jsonl")
    guard FileManager.default.fileExists(atPath: path) else { return }
    let tokenizer = try opened(form)
    for row in try rows(path, as: PairCase.self) {
      let encoding = try tokenizer.encode(row.a, pair: row.b)
      #expect(encoding.ids == row.ids)
      #expect(encoding.typeIDs == row.type_ids)
    }
  }

  @Test("llama.cpp's own suites", arguments: [("gpt-2", "gpt2"), ("bert-bge", "bert")])
  func llamaCPP(_ suite: String, _ form: String) throws {
    let tokenizer = try opened(form)
    let rows: [Case] = try rows(tokenizers + "/llama.cpp/\(suite).jsonl")
    #expect(rows.count == 46)
    for row in rows { try check(row, tokenizer) }
  }

  struct Sample: Decodable {
    var text: String
    var bpe_tokens: [String]
    var token_ids: [Int]
  }

  @Test("swift-transformers' samples", arguments: [("bert_uncased_encoded", "bert"), ("gpt2_encoded_tokens", "gpt2")])
  func swiftTransformers(_ name: String, _ form: String) throws {
    let tokenizer = try opened(form)
    let data = try Data(contentsOf: URL(fileURLWithPath: tokenizers + "/swift-transformers/\(name).json"))
    let sample = try JSONDecoder().decode(Sample.self, from: data)
    #expect(try tokenizer.encode(sample.text).ids == sample.token_ids)
    let bare = try tokenizer.encode(sample.text, addSpecialTokens: false).ids
    #expect(bare.map { tokenizer.token($0) } == sample.bpe_tokens)
  }

  @Test("tokenizers whose licences keep them elsewhere", .enabled(if: extraTokenizers != nil), arguments: ["llama2", "llama3"])
  func extra(_ form: String) throws {
    let folder = try #require(extraTokenizers)
    let tokenizer = try Tokenizer.open(folder + "/" + form)
    let suite = form == "llama2" ? "llama-spm" : "llama-bpe"
    for file in ["\(form)/cases.jsonl", "\(form)/special_cases.jsonl", "llama.cpp-suite/\(suite).jsonl"] {
      for row in try rows(folder + "/" + file, as: Case.self) { try check(row, tokenizer) }
    }
  }
}

@Suite("Every part of a tokenizer.json does what Hugging Face's does")
struct ComponentTests {
  struct Row: Sendable, CustomTestStringConvertible {
    let name: String
    let json: String
    let cases: [(text: String, ids: [Int])]
    var testDescription: String { name }
  }

  static let components: [Row] = {
    var result: [Row] = []
    try? JSONLines.forEach(tokenizers + "/components.jsonl") { row, _ in
      let parts = (row["tokenizer"]?.members ?? []).map { "\"\($0.key)\":\($0.value.text())" }.joined(separator: ",")
      result.append(
        Row(
          name: row["name"]?.string ?? "", json: bytesTokenizer(parts.replacingOccurrences(of: "\"version\":\"1.0\",", with: "")),
          cases: (row["cases"]?.array ?? []).map { ($0["text"]?.string ?? "", ($0["ids"]?.array ?? []).compactMap(\.int)) }))
    }
    return result
  }()

  @Test("all of them are there")
  func count() { #expect(Self.components.count == 74) }

  @Test("parts", arguments: components)
  func part(_ row: Row) throws {
    let tokenizer = try Tokenizer(files: ["tokenizer.json": Array(row.json.utf8)], place: "fixture")
    #expect(row.cases.count == 20)
    for (text, ids) in row.cases {
      #expect(try tokenizer.encode(text).ids == ids, "\(text.debugDescription)")
    }
  }
}
