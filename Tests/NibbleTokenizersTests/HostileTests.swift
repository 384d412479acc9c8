import Foundation
import NibbleCore
import NibbleTokenizers
import TestSupport
import Testing

/// Runs `body`, which must end in one line of bad input, and returns that line.
@discardableResult
func expectBadInput(_ body: () throws -> Void, sourceLocation: SourceLocation = #_sourceLocation) -> String? {
  do {
    try body()
    Issue.record("it was accepted", sourceLocation: sourceLocation)
  } catch let error as NibbleError {
    #expect(error.kind == .badInput, "\(error)", sourceLocation: sourceLocation)
    #expect(!error.message.contains("\n"), sourceLocation: sourceLocation)
    return error.message
  } catch {
    Issue.record(error, sourceLocation: sourceLocation)
  }
  return nil
}

@Suite("Bad tokenizers are refused in one line")
struct HostileTests {
  static let model = #""model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}"#

  @Test(
    "tokenizer.json",
    arguments: [
      ("", "byte 0"), ("{", "expected"), ("[]", "expected"), ("{}", "vocabulary"), (#"{"model":{}}"#, "vocabulary"),
      (#"{"model":{"vocab":{"a":0},"merges":["a b"]}}"#, "'b'"), (#"{"model":{"vocab":{"a":0,"b":1},"merges":["a b"]}}"#, "'ab'"),
      (#"{"model":{"vocab":{"a":0},"merges":["a"]}}"#, "two tokens"),
      (#"{"model":{"vocab":{"a":0},"merges":[["a"]]}}"#, "two tokens"),
      (#"{"model":{"vocab":{"a":0},"merges":["a a a"]}}"#, "two tokens"),
      (#"{"model":{"vocab":{"a":1000000000000000000},"merges":[]}}"#, "1000000000000000000"),
      (#"{"model":{"vocab":{"a":99999999999999999999},"merges":[]}}"#, "99999999999999999999"),
      (#"{"model":{"vocab":{"a":-1},"merges":[]}}"#, "-1"), (#"{"model":{"vocab":{"a":1.5},"merges":[]}}"#, "1.5"),
      (#"{"model":{"vocab":{"a":0,"b":0},"merges":[]}}"#, "'b'"),
      (#"{"model":{"vocab":{"a":0,"a":1},"merges":[]}}"#, "duplicate"),
      (#"{"model":{"type":"Lattice","vocab":{"a":0}}}"#, "Lattice"),
      (#"{"model":{"type":"BPE","dropout":0.1,"vocab":{"a":0},"merges":[]}}"#, "dropout"),
      (#"{"model":{"type":"WordPiece","max_input_chars_per_word":1000000000000,"vocab":{"a":0}}}"#, "1000000000000"),
      (#"{"model":{"type":"Unigram","unk_id":7,"vocab":[["a",0.0]]}}"#, "unk_id"),
      (#"{"model":{"type":"Unigram","vocab":[["a",1e999]]}}"#, "score"),
      (#"{"model":{"type":"Unigram","vocab":[["a",NaN]]}}"#, "NaN is not a JSON number"),
      (#"{"normalizer":{"type":"Nmt"},\#(model)}"#, "Nmt"), (#"{"normalizer":{},\#(model)}"#, "normalizer"),
      (#"{"pre_tokenizer":{"type":"UnicodeScripts"},\#(model)}"#, "UnicodeScripts"),
      (#"{"decoder":{"type":"CTC"},\#(model)}"#, "CTC"), (#"{"post_processor":{"type":"Magic"},\#(model)}"#, "Magic"),
      (#"{"post_processor":{"type":"BertProcessing","sep":["x",99999999999],"cls":["y",1]},\#(model)}"#, "sep"),
      (#"{"normalizer":{"type":"Precompiled","precompiled_charsmap":"AAAA"},\#(model)}"#, "replacements"),
      (#"{"normalizer":{"type":"Precompiled","precompiled_charsmap":"CAAAAP////8BAgMEAA=="},\#(model)}"#, "replacements"),
      (#"{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"("},"behavior":"Isolated"},\#(model)}"#, "regular expression"),
      (#"{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"[a-z&&[b]]"},"behavior":"Isolated"},\#(model)}"#, "&&"),
      (#"{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{Nonsense}"},"behavior":"Isolated"},\#(model)}"#, "regular"),
      (#"{"pre_tokenizer":{"type":"Split","pattern":{"String":""},"behavior":"Isolated"},\#(model)}"#, "pattern"),
      (#"{"pre_tokenizer":{"type":"Split","pattern":{"String":"a"},"behavior":"Sideways"},\#(model)}"#, "Sideways"),
      (#"{"added_tokens":[{"id":0,"content":"zzz"}],\#(model)}"#, "'zzz'"),
      (#"{"added_tokens":[{"id":7000000000,"content":"zzz"}],\#(model)}"#, "7000000000"),
      (#"{"added_tokens":[{"id":7}],\#(model)}"#, "content"),
      (#"{"added_tokens":[{"id":7,"content":"\#(String(repeating: "a", count: 999))"}],\#(model)}"#, "999 bytes"),
      (#"{"normalizer":{"type":"Prepend","prepend":"\#(String(repeating: "a", count: 1_000_000))"},\#(model)}"#, "prepend"),
      (
        #"{"post_processor":{"type":"TemplateProcessing","single":[\#(String(repeating: #"{"Sequence":{"id":"A","type_id":0}},"#, count: 999))1]},\#(model)}"#,
        "single"
      ),
    ] as [(String, String)])
  func tokenizerJSON(_ json: String, _ mention: String) throws {
    let message = expectBadInput { _ = try Tokenizer(files: ["tokenizer.json": Array(json.utf8)], place: "there") }
    #expect(message?.contains("there/tokenizer.json") == true)
    #expect(message?.contains(mention) == true, "\(message ?? "")")
  }

  @Test("rules that double a text again and again")
  func growth() throws {
    let doubling = #"{"type":"Replace","pattern":{"String":"a"},"content":"aa"}"#
    let rules = Array(repeating: doubling, count: 60).joined(separator: ",")
    let normalizing = try Tokenizer(
      files: ["tokenizer.json": Array(#"{"normalizer":{"type":"Sequence","normalizers":[\#(rules)]},\#(Self.model)}"#.utf8)],
      place: "there")
    #expect(expectBadInput { _ = try normalizing.encode("a") }?.contains("bytes of a short text") == true)
    let decoding = try Tokenizer(
      files: ["tokenizer.json": Array(#"{"decoder":{"type":"Sequence","decoders":[\#(rules)]},\#(Self.model)}"#.utf8)],
      place: "there")
    #expect(expectBadInput { _ = try decoding.decode([0]) }?.contains("bytes of a short text") == true)
  }

  @Test("patterns that look through the whole text again and again", arguments: ["a(?=a*a*[bc]|)", "(a*)*c|a", "(?=a*b)c|a"])
  func slowPatterns(_ pattern: String) throws {
    let json = #"{"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\#(pattern)"},"behavior":"Isolated"},\#(Self.model)}"#
    let tokenizer = try Tokenizer(files: ["tokenizer.json": Array(json.utf8)], place: "there")
    #expect(
      expectBadInput { _ = try tokenizer.encode(String(repeating: "a", count: 300_000)) }?.contains("too many steps") == true)
  }

  @Test("a tokenizer.json cut off anywhere")
  func truncatedJSON() throws {
    let whole = try bytes(of: tokenizers + "/small/llama2-like/tokenizer.json")
    for cut in stride(from: 0, to: whole.count - 1, by: 997) {
      expectBadInput { _ = try Tokenizer(files: ["tokenizer.json": Array(whole[..<cut])], place: "x") }
    }
  }

  @Test("steps within steps without end")
  func nesting() throws {
    func nested(_ depth: Int) -> String {
      String(repeating: #"{"type":"Sequence","normalizers":["#, count: depth) + #"{"type":"NFC"}"#
        + String(repeating: "]}", count: depth)
    }
    let deep = bytesTokenizer(#""normalizer":"# + nested(5000))
    expectBadInput { _ = try Tokenizer(files: ["tokenizer.json": Array(deep.utf8)], place: "x") }
    let shallow = bytesTokenizer(#""normalizer":"# + nested(10))
    #expect(try Tokenizer(files: ["tokenizer.json": Array(shallow.utf8)], place: "x").encode("a").ids == [0x61, 0x7C])
  }

  @Test("a pattern that backtracks for ever", arguments: [#"(a+)+$"#, #"(a|aa)+$"#, #"(.*a){20}x"#])
  func catastrophicPattern(_ pattern: String) throws {
    let json = bytesTokenizer(
      #""pre_tokenizer":{"type":"Split","pattern":{"Regex":"\#(pattern)"},"behavior":"Isolated","invert":false}"#)
    let tokenizer = try Tokenizer(files: ["tokenizer.json": Array(json.utf8)], place: "x")
    let clock = ContinuousClock()
    let time = clock.measure {
      // PCRE2 sees through some of these; what it does not see through must end in an error.
      do { _ = try tokenizer.encode(String(repeating: "a", count: 5000) + "!") } catch let error as NibbleError {
        #expect(error.kind == .badInput && error.message.contains("steps"))
      } catch { Issue.record(error) }
    }
    // Seconds on an idle core; a machine that builds beside takes longer.
    #expect(time < .seconds(60))
  }

  @Test("a damaged SentencePiece model, cut or changed anywhere", arguments: 0..<8)
  func damagedModel(_ seed: UInt64) throws {
    let whole = try bytes(of: tokenizers + "/stories512/tokenizer.model")
    var generator = Generator(seed)
    for _ in 0..<60 {
      var damaged = whole
      if Bool.random(using: &generator) {
        damaged.removeLast(Int.random(in: 1..<whole.count, using: &generator))
      } else {
        for _ in 0..<Int.random(in: 1...8, using: &generator) {
          damaged[Int.random(in: 0..<whole.count, using: &generator)] = UInt8.random(in: 0...255, using: &generator)
        }
      }
      // Some damage leaves a model; what counts is that nothing else than an error comes of the rest.
      do {
        let tokenizer = try Tokenizer(files: ["tokenizer.model": damaged], place: "x")
        let ids = try tokenizer.encode("Once upon a time é \u{4E2D}").ids
        _ = try tokenizer.decode(ids)
      } catch let error as NibbleError {
        #expect(error.kind == .badInput)
      }
    }
  }

  @Test(
    "tiktoken ranks",
    arguments: [
      ("IQ==", "line 1"), ("IQ== x", "line 1"), ("IQ== 0\nIQ= 1", "line 2"), ("IQ== 0\n!!!! 1", "line 2"), ("IQ== 0", "byte 0"),
      ("IQ== 0\nIg== 0", "line 2"), ("IQ== 0\nIQ== 1", "line 2"), ("IQ== 99999999999999999999", "line 1"),
      ("IQ== 999999999999", "999999999999"), ("IQ== -1", "line 1"), ("IQ== 0\n== 1", "line 2"),
    ])
  func ranks(_ text: String, _ mention: String) throws {
    let message = expectBadInput { _ = try Tokenizer(files: ["tokenizer.model": Array(text.utf8)], place: "there") }
    #expect(message?.contains(mention) == true, "\(message ?? "")")
  }

  @Test("special tokens beside ranks")
  func specialTokensOfRanks() throws {
    let ranks = (0..<256).map { Data([UInt8($0)]).base64EncodedString() + " \($0)" }.joined(separator: "\n")
    func open(_ special: String) throws -> Tokenizer {
      try Tokenizer(files: ["tokenizer.model": Array(ranks.utf8), "special_tokens.json": Array(special.utf8)], place: "x")
    }
    for special in [
      "{", #"{"special_tokens":{"<a>":3}}"#, #"{"special_tokens":{"<a>":"3"}}"#, #"{"special_tokens":{"<a>":1e99}}"#,
      #"{"pat_str":"("}"#, #"{"special_tokens":{"<a>":300,"<b>":300}}"#,
    ] {
      expectBadInput { _ = try open(special) }
    }
    let tokenizer = try open(#"{"special_tokens":{"<a>":300,"<|begin_of_text|>":301},"pat_str":"."}"#)
    #expect(try tokenizer.encode("x<a>y").ids == [301, 120, 300, 121])
    #expect(try tokenizer.encode("x<a>y", specialAsText: true).ids == [301, 120, 60, 97, 62, 121])
    // A line break is nothing that `.` matches, and what the pattern leaves out tiktoken leaves out.
    #expect(try tokenizer.encode("x\ny", addSpecialTokens: false).ids == [120, 121])
  }

  @Test("vocab.json with merges.txt, and vocab.txt")
  func slowForms() throws {
    let merges = Array("#version: 0.2\na b\n".utf8)
    for vocab in ["[]", "{", #"{"a":"x"}"#, #"{"a":0}"#, #"{"a":0,"b":1,"ab":1}"#, #"{"a":0,"b":1,"ab":16777216}"#] {
      expectBadInput { _ = try Tokenizer(files: ["vocab.json": Array(vocab.utf8), "merges.txt": merges], place: "x") }
    }
    let vocab = Array(#"{"a":0,"b":1,"ab":2}"#.utf8)
    for merges in ["a", "a b c", "a \u{10FFFF}"] {
      expectBadInput { _ = try Tokenizer(files: ["vocab.json": vocab, "merges.txt": Array(merges.utf8)], place: "x") }
    }
    expectBadInput {
      let files = [
        "vocab.json": vocab, "merges.txt": merges, "tokenizer_config.json": Array(#"{"tokenizer_class":"CTRLTokenizer"}"#.utf8),
      ]
      _ = try Tokenizer(files: files, place: "x")
    }
    for text: [UInt8] in [[], [0x0A], [0xFF, 0x0A]] {
      expectBadInput { _ = try Tokenizer(files: ["vocab.txt": text], place: "x") }
    }
    // Without an unknown token, a word it lacks is an error and no crash.
    let bare = try Tokenizer(files: ["vocab.txt": Array("a\n".utf8)], place: "x")
    expectBadInput { _ = try bare.encode("b") }
  }

  @Test("places without a tokenizer")
  func places() throws {
    let folder = TemporaryFolder()
    for path in [folder.path, folder.file("none"), "/dev/null", "/proc/self/mem"] {
      expectBadInput { _ = try Tokenizer.open(path) }
    }
  }

  @Test(
    "a long run of one thing takes a moment",
    arguments: ["gpt2", "bert", "mistral-v3", "small/llama2-like", "small/unigram", "small/prefix"])
  func longRuns(_ form: String) throws {
    let tokenizer = try opened(form)
    for text in ["a", " ", "\n", "é", "▁"] {
      let long = String(repeating: text, count: 30_000)
      let clock = ContinuousClock()
      let time = try clock.measure { _ = try tokenizer.encode(long) }
      #expect(time < .seconds(15), "\(text.debugDescription)")
    }
  }
}
