import Foundation
import Synchronization
import NibbleTokenizers
import TestSupport
import Testing

@Suite("Decoding")
struct DecodingTests {
  @Test("any ids decode in pieces to what they decode to at once", arguments: CaseTests.forms)
  func randomIDs(_ form: String) throws {
    let tokenizer = try opened(form)
    var generator = Generator(5)
    for round in 0..<300 {
      let ids = (0..<Int.random(in: 0...12, using: &generator)).compactMap { _ in
        // Low ids are where bytes and marks are.
        let id = Int.random(
          in: 0..<(round % 2 == 0 ? min(300, tokenizer.vocabularySize) : tokenizer.vocabularySize), using: &generator)
        return tokenizer.token(id) == nil ? nil : id
      }
      try checkStreaming(ids, tokenizer)
      try checkStreaming(ids, tokenizer, skipSpecialTokens: true)
    }
  }

  @Test("a character of several tokens comes out when it is whole")
  func wholeCharacters() throws {
    let tokenizer = try opened("gpt2")
    let ids = try tokenizer.encode("👍é").ids
    var decoder = tokenizer.streamingDecoder()
    var pieces = try ids.map { try decoder.feed($0) }
    #expect(pieces.filter { !$0.isEmpty } == ["👍", "é"])
    // Half a character at the end is known to be one only there.
    decoder = tokenizer.streamingDecoder()
    pieces = try ids.prefix(1).map { try decoder.feed($0) }
    #expect(pieces == [""])
    #expect(try decoder.finish() == "\u{FFFD}")
  }

  @Test("SentencePiece bytes come out character by character; a wrong one becomes U+FFFD")
  func sentencePieceBytes() throws {
    let tokenizer = try opened("stories512")
    func byte(_ byte: UInt8) throws -> Int { try #require(tokenizer.id(of: String(format: "<0x%02X>", byte))) }
    var decoder = tokenizer.streamingDecoder()
    var pieces: [String] = []
    for value in Array("日本".utf8) + [0xE6, 0x97] { pieces.append(try decoder.feed(byte(value))) }
    #expect(pieces == ["", "", "日", "", "", "本", "", ""])
    #expect(try decoder.finish() == "\u{FFFD}\u{FFFD}")
  }

  @Test("special tokens are left out on demand")
  func skipping() throws {
    let bert = try opened("bert")
    let ids = try bert.encode("Hello, world").ids
    #expect(try bert.decode(ids) == "[CLS] hello, world [SEP]")
    #expect(try bert.decode(ids, skipSpecialTokens: true) == "hello, world")
    let gpt2 = try opened("gpt2")
    #expect(try gpt2.decode([15496, 50256], skipSpecialTokens: true) == "Hello")
  }

  @Test("an id that is no token's is an error", arguments: CaseTests.forms)
  func outOfRange(_ form: String) throws {
    let tokenizer = try opened(form)
    for id in [-1, tokenizer.vocabularySize, Int.max, Int.min] {
      let message = expectBadInput { _ = try tokenizer.decode([0, id]) }
      #expect(message?.contains("\(id)") == true)
    }
  }
}

@Suite("What a tokenizer knows")
struct PropertyTests {
  @Test("special tokens by form")
  func special() throws {
    let mistral = try opened("mistral-v3").special
    #expect(mistral.bos == 1 && mistral.eos == 2 && mistral.unknown == 0 && mistral.pad == nil && mistral.stops == [2])
    let bert = try opened("bert").special
    #expect(bert.bos == 101 && bert.eos == 102 && bert.pad == 0 && bert.unknown == 100)
    let roberta = try opened("roberta").special
    #expect(roberta.bos == 0 && roberta.eos == 2 && roberta.pad == 1 && roberta.unknown == 3)
    let gpt2 = try opened("gpt2")
    #expect(gpt2.special.bos == 50256 && gpt2.special.eos == 50256 && gpt2.special.pad == nil)
    #expect(gpt2.vocabularySize == 50257 && gpt2.token(262) == "Ġthe" && gpt2.id(of: "Ġthe") == 262)
  }

  @Test("configurations say which tokens they are")
  func configured() throws {
    let folder = TemporaryFolder()
    try folder.write("tokenizer.json", bytes(of: tokenizers + "/small/llama3-like/tokenizer.json"))
    try folder.write(
      "tokenizer_config.json",
      #"{"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}, "pad_token": null, "added_tokens_decoder": {"9000": {"content": "<|new|>", "special": true}}}"#
    )
    try folder.write("generation_config.json", #"{"eos_token_id": [1, 2, 99999]}"#)
    let tokenizer = try Tokenizer.open(folder.path)
    #expect(tokenizer.special.bos == 0 && tokenizer.special.eos == 2 && tokenizer.special.pad == nil)
    #expect(tokenizer.special.stops == [2, 1])
    #expect(try tokenizer.encode("a<|new|>b", addSpecialTokens: false).ids.contains(9000))
    #expect(tokenizer.vocabularySize == 9001)
    // A generation configuration that names no end leaves none to config.json.
    try folder.write("config.json", #"{"eos_token_id": 1}"#)
    try folder.write("generation_config.json", "{}")
    #expect(try Tokenizer.open(folder.path).special.stops == [2])
  }

  @Test("flags of the configuration change what stands around a text")
  func flags() throws {
    let folder = TemporaryFolder()
    try folder.write("tokenizer.model", bytes(of: tokenizers + "/stories512/tokenizer.model"))
    try folder.write("tokenizer_config.json", #"{"add_bos_token": false, "add_eos_token": true}"#)
    let ids = try Tokenizer.open(folder.path).encode("a").ids
    #expect(ids.first != 1 && ids.last == 2)
    let cased = TemporaryFolder()
    try cased.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\nA\na\né\ne\n")
    #expect(try Tokenizer.open(cased.path).encode("A é").ids == [2, 5, 7, 3])
    try cased.write("tokenizer_config.json", #"{"do_lower_case": false}"#)
    #expect(try Tokenizer.open(cased.path).encode("A é").ids == [2, 4, 6, 3])
  }

  @Test("tokenizer.json comes first, then tokenizer.model")
  func precedence() throws {
    let folder = TemporaryFolder()
    try folder.write("vocab.txt", bytes(of: tokenizers + "/bert/vocab.txt"))
    #expect(try Tokenizer.open(folder.path).source == .vocabText)
    try folder.write("tokenizer.model", bytes(of: tokenizers + "/stories512/tokenizer.model"))
    #expect(try Tokenizer.open(folder.path).source == .sentencePiece)
    try folder.write("tokenizer.json", bytes(of: tokenizers + "/small/suffix/tokenizer.json"))
    #expect(try Tokenizer.open(folder.path).source == .tokenizerJSON)
    #expect(try Tokenizer.open(folder.file("tokenizer.model")).source == .sentencePiece)
  }

  @Test("a tokenizer is used from many threads at once")
  func threads() throws {
    let tokenizer = try opened("gpt2")
    let rows: [Case] = try rows(tokenizers + "/gpt2/cases.jsonl")
    let wrong = Mutex(0)
    DispatchQueue.concurrentPerform(iterations: 8) { _ in
      for row in rows where (try? tokenizer.encode(row.text).ids) != row.ids { wrong.withLock { $0 += 1 } }
    }
    #expect(wrong.withLock { $0 } == 0)
  }
}
