import Foundation
import NibbleCore
import NibbleTemplates
import NibbleTokenizers
@testable import NibbleTraining
import TestSupport
import Testing

@Suite("Rows of training data")
struct DataTests {
  static let tokenizer = try? Tokenizer.open(fixture("tokenizers/gpt2"))

  func encoder(_ change: (inout RowEncoder) throws -> Void = { _ in }) throws -> RowEncoder {
    let tokenizer: Tokenizer = try #require(Self.tokenizer)
    var encoder = RowEncoder(tokenizer, end: 50256, vocabulary: 50257, maximumLength: 1024)
    try change(&encoder)
    return encoder
  }

  func row(_ text: String, _ change: (inout RowEncoder) throws -> Void = { _ in }) throws -> TrainingRow {
    try encoder(change).language(JSON.parse(Array(text.utf8)), place: "rows.jsonl:7").row
  }

  /// What is learned, as text.
  func learned(_ row: TrainingRow) throws -> String {
    try #require(Self.tokenizer).decode(row.labels.filter { $0 != TrainingRow.ignored })
  }

  func whole(_ row: TrainingRow) throws -> String { try #require(Self.tokenizer).decode(row.ids) }

  @Test("texts are learned whole, with an end")
  func text() throws {
    let row = try row(#"{"text": "Hello world"}"#)
    #expect(row.ids == [15496, 995, 50256] && row.labels == row.ids)
  }

  @Test("of questions and answers the answer is learned, and its end", arguments: [false, true])
  func answers(_ trainsOnPrompt: Bool) throws {
    let row = try row(#"{"prompt": "Q: 1+1?", "completion": " 2"}"#) { $0.trainsOnPrompt = trainsOnPrompt }
    #expect(try whole(row) == "Q: 1+1? 2<|endoftext|>")
    #expect(try learned(row) == (trainsOnPrompt ? "Q: 1+1? 2<|endoftext|>" : " 2<|endoftext|>"))
  }

  @Test("instructions are written as Alpaca writes them")
  func instructions() throws {
    let row = try row(#"{"instruction": "Add.", "input": "1 1", "output": "2"}"#)
    let text = try whole(row)
    #expect(text.hasPrefix("Below is an instruction that describes a task, paired with an input"))
    #expect(text.hasSuffix("### Instruction:\nAdd.\n\n### Input:\n1 1\n\n### Response:\n2<|endoftext|>"))
    #expect(try learned(row) == "2<|endoftext|>")
    #expect(try !whole(self.row(#"{"instruction": "Add.", "output": "2"}"#)).contains("### Input"))
  }

  @Test("of conversations what the assistant says is learned", arguments: ChatTemplate.allCases)
  func conversations(_ template: ChatTemplate) throws {
    let messages =
      #"[{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, {"role": "assistant", "content": "A"}]"#
    let row = try row(#"{"messages": \#(messages)}"#) { _ = try $0.use(template, breaksMarks: true) }
    let expected: [ChatTemplate: (String, String)] = [
      .llama3: (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
          + "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>", "A<|eot_id|>"
      ),
      .chatml: (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n", "A<|im_end|>"
      ),
      .zephyr: ("<|system|>\nS</s>\n<|user|>\nU</s>\n<|assistant|>\nA</s>\n", "A</s>"),
      .mistral: ("[INST] S\n\nU [/INST] A</s>", " A</s>"),
    ]
    #expect(try whole(row) == expected[template]?.0)
    #expect(try learned(row) == expected[template]?.1)
  }

  @Test(
    "a template whose marks the tokenizer breaks is refused with the pieces, unless that is asked for",
    arguments: [
      (ChatTemplate.chatml, "tokenizers/gpt2", "'<|im_start|>'", "'<', '|', 'im', '_', 'start', '|', '>'"),
      (.llama3, "tokenizers/gpt2", "'<|begin_of_text|>'", "'<', '|', 'begin'"),
      (.zephyr, "tokenizers/gpt2", "no token '</s>'", "'</', 's', '>'"),
      // SentencePiece has the token, and reads its spelling as text.
      (.mistral, "stories260K", "though it is token 2", "'s', '>'"),
    ])
  func brokenMarks(_ template: ChatTemplate, _ tokenizer: String, _ mark: String, _ pieces: String) throws {
    var encoder = RowEncoder(try Tokenizer.open(fixture(tokenizer)), end: nil, vocabulary: 50257, maximumLength: 64)
    let error = #expect(throws: NibbleError.self) { _ = try encoder.use(template) }
    #expect(error?.kind == .usage, "\(error?.message ?? "")")
    for part in [mark, pieces, "breakMarks"] { #expect(error?.message.contains(part) == true, "\(error?.message ?? "")") }
    let warnings = try encoder.use(template, breaksMarks: true)
    #expect(warnings.first?.message.contains(pieces) == true, "\(warnings)")
  }

  static let marked = "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' %}{% generation %}{{ m.content }}!{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ '\n' }}{% endfor %}"
  static let unmarked = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}!{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"

  @Test(
    "a model's own template says what is learned, by its marks or by what it adds for an answer",
    arguments: [(marked, LearnedTurns.all, "A 🦙!B!"), (unmarked, .all, "A 🦙!B!"), (marked, .last, "B!"), (unmarked, .last, "B!")])
  func ownTemplate(_ source: String, _ turns: LearnedTurns, _ expected: String) throws {
    let row = try row(
      #"{"messages": [{"role":"user","content":"U"},{"role":"assistant","content":"A 🦙"},{"role":"user","content":"V"},{"role":"assistant","content":"B"}]}"#
    ) {
      $0.templates = ChatTemplates(try Template(source, name: "t"), specialTokens: [])
      $0.learnedTurns = turns
    }
    #expect(try whole(row) == "<user>U\n<assistant>A 🦙!\n<user>V\n<assistant>B!\n")
    #expect(try learned(row) == expected)
  }

  @Test(
    "a template that rewrites what was said, or refuses it, is an error with the row's place",
    arguments: [
      ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "message 2"), ("{{ raise_exception('no') }}", "t:1: no"),
    ])
  func unmaskable(_ source: String, _ mention: String) throws {
    let error = #expect(throws: NibbleError.self) {
      try row(#"{"messages": [{"role":"user","content":"U"},{"role":"assistant","content":"A"}]}"#) {
        $0.templates = ChatTemplates(try Template(source, name: "t"), specialTokens: [])
      }
    }
    #expect(error?.message.hasPrefix("rows.jsonl:7: ") == true && error?.message.contains(mention) == true, "\(error?.message ?? "")")
  }

  @Test("of several answers, a built-in template learns all or the last", arguments: [(LearnedTurns.all, "A</s>B</s>"), (.last, "B</s>")])
  func builtInTurns(_ turns: LearnedTurns, _ expected: String) throws {
    let row = try row(
      #"{"messages": [{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"V"},{"role":"assistant","content":"B"}]}"#
    ) {
      _ = try $0.use(.zephyr, breaksMarks: true)
      $0.learnedTurns = turns
    }
    #expect(try learned(row) == expected)
  }

  static let dialogue = #"[{"role":"system","content":"S"},{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"V"},{"role":"assistant","content":"B"}]"#

  @Test(
    "ShareGPT's conversations are the same as messages",
    arguments: [
      #"{"conversations": [{"from":"system","value":"S"},{"from":"human","value":"U"},{"from":"gpt","value":"A"},{"from":"human","value":"V"},{"from":"gpt","value":"B"}]}"#,
      #"{"system": "S", "conversations": [{"from":"User","value":"U"},{"from":"chatgpt","value":"A","weight":1},{"from":"prompter","value":"V"},{"from":"assistant","value":"B"}]}"#,
      #"{"conversations": \#(dialogue)}"#, #"{"messages": [{"from":"system","value":"S"},{"from":"human","value":"U"},{"from":"bot","value":"A"},{"from":"user","value":"V"},{"from":"model","value":"B"}]}"#,
    ], [nil, unmarked])
  func shareGPT(_ text: String, _ source: String?) throws {
    func use(_ encoder: inout RowEncoder) throws {
      if let source { encoder.templates = ChatTemplates(try Template(source, name: "t"), specialTokens: []) } else { _ = try encoder.use(.chatml, breaksMarks: true) }
    }
    let found = try row(text, use), expected = try row(#"{"messages": \#(Self.dialogue)}"#, use)
    #expect(found.ids == expected.ids && found.labels == expected.labels)
  }

  @Test(
    "of TRL's lists of messages the completion's answers are learned, and the prompt's are not",
    arguments: [(nil, LearnedTurns.all, "B<|im_end|>C<|im_end|>"), (nil, .last, "C<|im_end|>"), (unmarked, .all, "B!C!"), (marked, .all, "B!C!"), (marked, .last, "C!")])
  func promptAndCompletion(_ source: String?, _ turns: LearnedTurns, _ expected: String) throws {
    let more = #"[{"role":"assistant","content":"B"},{"role":"user","content":"W"},{"role":"assistant","content":"C"}]"#
    let prompt = #"[{"role":"user","content":"U"},{"role":"assistant","content":"A"},{"role":"user","content":"V"}]"#
    let row = try row(#"{"prompt": \#(prompt), "completion": \#(more)}"#) {
      $0.learnedTurns = turns
      if let source { $0.templates = ChatTemplates(try Template(source, name: "t"), specialTokens: []) } else { _ = try $0.use(.chatml, breaksMarks: true) }
    }
    #expect(try learned(row) == expected)
    #expect(try whole(row).contains("A"))
  }

  @Test("the templates that are written beside adapters are the built-in ones", arguments: [ChatTemplate.chatml, .llama3])
  func sources(_ template: ChatTemplate) throws {
    let source = try #require(template.source), text = #"{"messages": \#(Self.dialogue)}"#
    let own = try row(text) { _ = try $0.use(template, breaksMarks: true) }
    let written = try row(text) { $0.templates = ChatTemplates(try Template(source, name: "t"), specialTokens: []) }
    // Marks that are pieces are cut otherwise; where they are tokens, the texts' tokens are the same.
    #expect(try whole(own) == whole(written))
  }

  @Test("a plain text becomes rows of the greatest length, and nothing is cut off")
  func plainText() throws {
    let text = String(repeating: "one two three ", count: 40)
    let rows = try encoder { $0.maximumLength = 16 }.rows(of: text, place: "t.txt")
    #expect(rows.dropLast().allSatisfy { $0.ids.count == 16 && $0.labels == $0.ids } && rows.count == 8)
    #expect(try rows.map(whole).joined() == text + "<|endoftext|>")
  }

  @Test("a long text is tokenized in parts, to the tokens of the whole", arguments: ["one two three, four\n", "abc def ", "é\n\nà b\n\n", "x"])
  func segments(_ unit: String) throws {
    let text = String(String(repeating: unit, count: 60_000 / unit.utf8.count + 1).prefix(50_000))
    let tokenizer = try #require(Self.tokenizer)
    let parts = Array(TextSegments(text, size: 1 << 13))
    #expect(parts.count > 1 && parts.joined() == text && parts.allSatisfy { $0.utf8.count <= 1 << 14 })
    let expected = try tokenizer.encode(text).ids
    let found = try encoder { ($0.maximumLength, $0.segmentSize) = (50, 1 << 13) }.language(["text": JSON(text)], place: "x")
    #expect(found.row.ids == Array(expected.prefix(50)))
    // Words without an end are cut somewhere.
    #expect(abs(found.cut + 50 - 1 - expected.count) <= (unit == "x" ? 16 : 0))
    if unit != "x" { #expect(try encoder { ($0.maximumLength, $0.segmentSize) = (100, 1 << 13) }.rows(of: text, place: "x").flatMap(\.ids) == expected + [50256]) }
  }

  /// Rows of a file, with their places, or the error.
  func items(_ name: String, _ text: String) throws -> [String] {
    let folder = TemporaryFolder()
    var found: [String] = []
    do {
      try RowFile.forEach(folder.write(name, text)) { item, place in
        let place = place.replacingOccurrences(of: folder.path + "/", with: "")
        switch item {
        case .row(let row): found.append("\(place) \(row.text())")
        case .text(let text): found.append("\(place) '\(text)'")
        }
      }
    } catch let error as NibbleError {
      found.append(error.message.replacingOccurrences(of: folder.path + "/", with: ""))
    }
    return found
  }

  @Test(
    "files are JSON Lines, one JSON array, or plain text",
    arguments: [
      ("a.jsonl", "{\"text\":1}\r\n\n{\"text\":2}", [#"a.jsonl:1 {"text":1}"#, #"a.jsonl:3 {"text":2}"#]),
      ("a.json", "\u{FEFF}\n[{\"a\":1},\n\n {\"a\": [2]}\n]\n", [#"a.json:2, row 1 {"a":1}"#, #"a.json:4, row 2 {"a":[2]}"#]),
      ("a.jsonl", "[]", []), ("a.txt", "one\n\ntwo\n", ["a.txt 'one\n\ntwo\n'"]),
      ("a.txt", "one\n<|endoftext|>\ntwo", ["a.txt:1 'one'", "a.txt:3 'two'"]), ("a.txt", "{\"text\": 1}", ["a.txt '{\"text\": 1}'"]),
    ] as [(String, String, [String])])
  func files(_ name: String, _ text: String, _ expected: [String]) throws { #expect(try items(name, text) == expected) }

  @Test(
    "what is no JSON is named by its line, with what a row looks like",
    arguments: [
      ("a.jsonl", "{\"text\":1}\nOnce upon", "a.jsonl:2: expected a value, found 'O' at byte 0 of the line; a row is"), ("a.json", "[\n{\"a\":1}\n{", "a.json:3: expected ']', found '{' at byte 10; a row is"),
      ("a.jsonl", "[1, 2]\n[3]", "a.jsonl:2: something follows the end of the JSON text at byte 7"), ("a.json", "[{\"a\": NaN}]", "a.json:1: NaN is not a JSON number"),
      ("a.json", "[[", "a.json:1: expected a value"),
    ])
  func badFiles(_ name: String, _ text: String, _ expected: String) throws {
    let last = try #require(try items(name, text).last)
    #expect(last.hasPrefix(expected) && last.hasSuffix(#"such as {"text": "…"} or {"prompt": "…", "completion": "…"}; plain text goes into a .txt file"#), "\(last)")
  }

  @Test("tokens are taken as they are; labels beside them align")
  func tokens() throws {
    #expect(try row(#"{"input_ids": [1, 2], "labels": [-100, 2]}"#).labels == [-100, 2])
    #expect(try row(#"{"input_ids": [1, 2]}"#).labels == [1, 2])
  }

  @Test("long rows are cut, and that is counted")
  func cut() throws {
    let found = try encoder { $0.maximumLength = 2 }.language(JSON.parse(Array(#"{"input_ids": [1, 2, 3, 4]}"#.utf8)), place: "x")
    #expect(found.row.ids == [1, 2] && found.row.labels == [1, 2] && found.cut == 2)
  }

  @Test(
    "rows that are none are named by file and line",
    arguments: [
      #"{}"#, #"[]"#, #""text""#, #"{"text": 5}"#, #"{"prompt": "x"}"#, #"{"completion": "x"}"#, #"{"input_ids": "x"}"#,
      #"{"input_ids": [1.5]}"#, #"{"input_ids": [1, 2], "labels": [1]}"#, #"{"input_ids": [60000]}"#,
      #"{"input_ids": [1], "labels": [-1]}"#,
      #"{"input_ids": []}"#, #"{"messages": []}"#, #"{"messages": [{"role": "user"}]}"#, #"{"output": "x"}"#, #"{"tekst": "x"}"#,
      #"{"text": "x", "label": 1}"#, #"{"text": "x", "labels": [1]}"#,
      #"{"messages": [{"role": "user", "content": "x"}]}"#, #"{"messages": [{"role": "tool", "content": "x"}]}"#,
      #"{"conversations": [{"from": "alien", "value": "x"}]}"#, #"{"conversations": [{"from": "human"}]}"#, #"{"conversations": "x"}"#,
      #"{"prompt": [{"role": "user", "content": "x"}], "completion": "x"}"#, #"{"prompt": [], "completion": []}"#,
      #"{"prompt": [{"role": "assistant", "content": "x"}], "completion": [{"role": "user", "content": "x"}]}"#,
    ])
  func refused(_ text: String) throws {
    let error = #expect(throws: NibbleError.self) { try row(text) { _ = try $0.use(.chatml, breaksMarks: true) } }
    #expect(error?.kind == .badInput && error?.path == "rows.jsonl:7", "\(error?.message ?? "")")
  }

  @Test("orders: every epoch has each row once, drawn anew", arguments: [false, true], [(100, 8), (7, 8), (64, 4), (801, 2)])
  func orders(_ grouped: Bool, _ size: (rows: Int, batch: Int)) {
    let lengths = (0..<size.rows).map { $0 * 37 % 101 + 1 }
    var order = RowOrder(size.rows, seed: 3, grouping: grouped ? .init(lengths: lengths, batch: size.batch) : nil)
    let epochs = (0..<3).map { epoch in (0..<size.rows).map { order.row(epoch * size.rows + $0) } }
    for epoch in epochs { #expect(epoch.sorted() == Array(0..<size.rows)) }
    #expect(Set(epochs).count == 3 || size.rows < 10)
    var again = RowOrder(size.rows, seed: 3, grouping: grouped ? .init(lengths: lengths, batch: size.batch) : nil)
    #expect(epochs[1] == (0..<size.rows).map { again.row(size.rows + $0) })
  }

  @Test("rows of like length come together when they are grouped")
  func grouping() {
    let lengths = (0..<400).map { $0 * 37 % 101 + 1 }
    func spread(_ grouping: RowOrder.Grouping?) -> Int {
      var order = RowOrder(400, seed: 1, grouping: grouping)
      let rows = (0..<1200).map { order.row($0) }
      return stride(from: 0, to: 1200, by: 8).reduce(0) { sum, first in
        let own = rows[first..<first + 8].map { lengths[$0] }
        return sum + (own.max() ?? 0) - (own.min() ?? 0)
      }
    }
    #expect(10 * spread(.init(lengths: lengths, batch: 8)) < spread(nil))
  }

  @Test("classes may be called by name", arguments: [false, true])
  func names(_ areMany: Bool) throws {
    let classes = Classes(3, names: ["up", "down", "level"], areMany: areMany)
    func read(_ label: String) throws -> [Double] {
      let row = try JSON.parse(
        Array((areMany ? #"{"text": "x", "labels": [\#(label)]}"# : #"{"text": "x", "label": \#(label)}"#).utf8))
      return try encoder().classified(row, classes, place: "rows.jsonl:7").row.targets
    }
    #expect(try read(#""level""#) == (areMany ? [0, 0, 1] : [2]))
    #expect(try read("1") == (areMany ? [0, 1, 0] : [1]))
    let error = #expect(throws: NibbleError.self) { try read(#""left""#) }
    #expect(error?.message.contains("'left' is none of the model's 3 classes: 'up'") == true, "\(error?.message ?? "")")
  }

  @Test(
    "a regression learns numbers, as many as it gives",
    arguments: [
      (1, #""label": 0.25"#, [0.25]), (1, #""labels": [-3]"#, [-3]), (2, #""labels": [1.5, 2]"#, [1.5, 2]), (2, #""label": 1"#, nil),
      (1, #""label": "0.25""#, nil), (1, #""label": null"#, nil), (1, #""label": 1e39"#, nil), (1, #""x": 1"#, nil),
    ] as [(Int, String, [Double]?)])
  func numbers(_ count: Int, _ label: String, _ targets: [Double]?) throws {
    let row = try JSON.parse(Array(#"{"text": "x", \#(label)}"#.utf8))
    func read() throws -> [Double] {
      try encoder().classified(row, Classes(count, names: ["up"], areNumbers: true), place: "rows.jsonl:7").row.targets
    }
    if let targets { return #expect(try read() == targets) }
    let error = #expect(throws: NibbleError.self) { try read() }
    #expect(error?.message.hasPrefix("rows.jsonl:7: label") == true && error?.message.hasSuffix("is a regression") == true)
  }

  @Test(
    "classes are those the model has",
    arguments: [("0", true), ("2", true), ("3", false), ("-1", false), (#""0""#, false), ("null", false)])
  func classes(_ label: String, _ isGood: Bool) throws {
    let row = try JSON.parse(Array(#"{"text": "x", "label": \#(label)}"#.utf8))
    func read() throws -> [Double] {
      try encoder().classified(row, Classes(3), place: "rows.jsonl:7").row.targets
    }
    if isGood { #expect(try read() == [Double(label) ?? -1]) } else { #expect(throws: NibbleError.self) { try read() } }
    let many = try JSON.parse(Array(#"{"text": "x", "labels": [0, 2]}"#.utf8))
    #expect(try encoder().classified(many, Classes(3, areMany: true), place: "x").row.targets == [1, 0, 1])
  }
}
