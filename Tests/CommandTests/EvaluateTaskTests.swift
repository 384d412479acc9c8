import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Tasks of evaluate, from the command line")
struct EvaluateTaskTests {
  let folder = TemporaryFolder()
  static let model = fixture("stories260K")

  private func evaluate(_ task: String, _ rows: String, _ more: String...) throws -> Program.Result {
    let path = try folder.write("rows.jsonl", rows)
    return try Program.run(["evaluate", Self.model, path, "--task", task] + more, folder: folder.path)
  }

  private func json(_ result: Program.Result) throws -> JSON {
    try #require(result.code == 0, "\(result.errors)")
    return try JSON.parse(Array(result.output.utf8))
  }

  static let questions = (0..<6).map {
    #"{"prompt":"Once upon a time, there was a little \#($0)","choices":["girl named Lily.","xqz wvk"],"answer":0,"subject":"s\#($0 % 2)"}"# + "\n"
  }.joined()

  @Test("what stories say is likelier than letters, in every figure")
  func choices() throws {
    let said = try json(try evaluate("choices", Self.questions, "--question-style", "plain", "--json"))
    for key in ["acc", "acc_norm", "acc_bytes"] { #expect(said[key]?.double == 1, "\(key)") }
    #expect(said["questions"]?.int == 6 && said["acc_standard_error"]?.double == 0)
  }

  @Test("an evaluation that was killed goes on, and says the same")
  func resume() throws {
    let path = try folder.write("rows.jsonl", String(repeating: Self.questions, count: 100))
    func run(_ predictions: String, _ more: String..., whileRunning: (Process) -> Void = { _ in }) throws -> Program.Result {
      try Program.run(
        ["evaluate", Self.model, path, "--task", "choices", "--question-style", "plain", "--json", "--predictions", folder.file(predictions)] + more,
        folder: folder.path, whileRunning: whileRunning)
    }
    func size(_ name: String) -> Int { ((try? FileManager.default.attributesOfItem(atPath: folder.file(name)))?[.size] as? Int) ?? 0 }
    let whole = try json(try run("whole.jsonl"))
    #expect(!folder.contents.contains(".whole.jsonl.nibble-answers"))
    let killed = try run("p.jsonl") { process in
      while process.isRunning, size(".p.jsonl.nibble-answers") < 10_000 { usleep(200) }
      kill(process.processIdentifier, SIGKILL)
    }
    #expect(killed.signal == SIGKILL && size(".p.jsonl.nibble-answers") >= 10_000 && !folder.contents.contains("p.jsonl"))
    // Its last record is cut. The figure of the killed run comes back only if the rest is whole.
    let left = try bytes(of: folder.file(".p.jsonl.nibble-answers"))
    try folder.write(".p.jsonl.nibble-answers", Array(left.dropLast(7)))
    try folder.write(".q.jsonl.nibble-answers", left)
    let resumed = try json(try run("p.jsonl", "--resume"))
    #expect(resumed["acc"] == whole["acc"] && resumed["acc_norm_interval"] == whole["acc_norm_interval"])
    #expect(!folder.contents.contains(".p.jsonl.nibble-answers"))
    // Questions are computed in other company now: scores may differ in their last digits, and nothing else may.
    func rows(_ name: String) throws -> [JSON] {
      try String(contentsOfFile: folder.file(name), encoding: .utf8).split(separator: "\n").map { try JSON.parse(String($0)) }
    }
    let (found, wanted) = (try rows("p.jsonl"), try rows("whole.jsonl"))
    #expect(found.count == 600 && wanted.count == 600)
    for (one, other) in zip(found, wanted) {
      #expect(one["row"] == other["row"] && one["place"] == other["place"] && one["prediction"] == other["prediction"])
      let scores = [one, other].map { $0["log_probabilities"]?.array?.compactMap(\.double) ?? [] }
      #expect(scores[0].count == 2 && zip(scores[0], scores[1]).allSatisfy { abs($0 - $1) < 1e-3 })
    }
    // Answers to other questions are not taken for these: another limit numbers them otherwise.
    let other = try run("q.jsonl", "--resume", "--limit", "5")
    #expect(other.code == 2 && other.errors.contains("another evaluation"), "\(other.errors)")
  }

  @Test("classes by words, with solved rows before each")
  func words() throws {
    try folder.write("labels.txt", "dog\ncat\n")
    let rows = #"{"text":"a","label":"dog"}"# + "\n" + #"{"text":"b","label":1}"# + "\n" + #"{"text":"c","label":1}"# + "\n"
    let said = try json(
      try evaluate(
        "classification", rows, "--label-list", folder.file("labels.txt"), "--few-shot", "1", "--exemplars", folder.file("rows.jsonl"), "--json"))
    #expect(said["rows"]?.int == 3 && said["accuracy"]?.double != nil && said["ece"]?.double != nil && said["f1_macro_interval"]?.array?.count == 2)
  }

  @Test("written answers are judged; a model beside itself differs by nothing")
  func written() throws {
    let nlg = try json(
      try evaluate(
        "nlg", #"{"prompt":"Once upon a time","completion":", there was a little girl named Lily."}"# + "\n" + #"{"prompt":"Once","references":["upon a time"]}"# + "\n",
        "--num-beams", "2", "--max-new-tokens", "12", "--json", "--compare-to", Self.model))
    #expect(nlg["prompts"]?.int == 2 && (nlg["bleu"]?.double ?? -1) > 0 && nlg["compared_to"]?["rouge_l_difference"]?.double == 0)
    try folder.write("labels.txt", "Loaded Language\nObfuscation, Intentional vagueness, Confusion\n")
    let labels = try json(
      try evaluate("labels", #"{"text":"t","labels":["Loaded Language"]}"# + "\n" + #"{"text":"u","labels":[]}"# + "\n", "--label-list", folder.file("labels.txt"), "--json"))
    #expect(labels["f1_micro"]?.double != nil && labels["prompts"]?.int == 2)
    let qa = try json(
      try evaluate(
        "qa", #"{"data":[{"paragraphs":[{"context":"c","qas":[{"question":"q","answers":[{"text":"Lily"}]},{"question":"r","is_impossible":true,"answers":[]}]}]}]}"#,
        "--prompt-format", "Once upon a time {question}", "--json"))
    #expect(qa["prompts"]?.int == 2 && qa["exact_match"]?.double != nil)
  }

  @Test("solved rows stand before a prompt that is answered in writing, the prompt's own not among them")
  func shown() throws {
    try folder.write("labels.txt", "Loaded Language\nObfuscation, Intentional vagueness, Confusion\n")
    let rows = [
      #"{"text":"a","labels":["Loaded Language","Obfuscation, Intentional vagueness, Confusion"]}"#, #"{"text":"b","labels":[]}"#, #"{"text":"c","labels":[]}"#,
    ]
    let result = try evaluate(
      "labels", rows.joined(separator: "\n") + "\n", "--label-list", folder.file("labels.txt"), "--max-new-tokens", "2", "--few-shot", "2", "--exemplars",
      folder.file("rows.jsonl"), "--predictions", folder.file("said.jsonl"))
    #expect(result.code == 0, "\(result.errors)")
    let texts = try String(contentsOfFile: folder.file("said.jsonl"), encoding: .utf8).split(separator: "\n").map { try JSON.parse(String($0))["text"]?.string }
    let first = "a <tech:> Loaded Language, Obfuscation, Intentional vagueness, Confusion\n\n"
    #expect(texts == ["b <tech:>\n\nc <tech:>\n\na <tech:>", first + "c <tech:>\n\nb <tech:>", first + "b <tech:>\n\nc <tech:>"])
  }

  @Test(
    "what cannot be asked is refused in one line with its place",
    arguments: [
      ("choices", #"{"question":"q","choices":["a","b"],"answer":2}"#, [], Int32(3), "rows.jsonl:1"),
      ("choices", #"{"a":1}"#, [], 3, "rows.jsonl:1"), ("choices", "", [], 3, "no question"),
      ("choices", #"{"question":"q","choices":["a","b"],"answer":1}"#, ["--few-shot", "1"], 2, "--exemplars"),
      ("choices", #"{"question":"q","choices":["a","b"],"answer":1}"#, ["--few-shot", "1", "--exemplars", "rows.jsonl"], 3, "0 solved"),
      ("choices", #"{"question":"q","choices":["a","b"],"answer":1}"#, ["--resume"], 2, "--predictions"),
      ("choices", #"{"question":"q","choices":["a","b"],"answer":1}"#, ["--question-style", "x"], 2, "--question-style"),
      ("qa", #"{"question":"q","answers":["a"]}"#, [], 3, "context"), ("qa", #"{"question":"q"}"#, [], 3, "answers"),
      ("qa", #"{"question":"q","context":"c","answers":["a"]}"#, ["--prompt-format", "{question"], 2, "'}'"),
      ("nlg", #"{"prompt":"p"}"#, [], 3, "completion"), ("nlg", #"{"prompt":"p","references":[]}"#, [], 3, "references"),
      ("nlg", #"{"prompt":"p","completion":"c"}"#, ["--few-shot", "1"], 2, "--exemplars"),
      ("nlg", #"{"prompt":"p","completion":"c"}"#, ["--few-shot", "1", "--exemplars", "rows.jsonl"], 3, "0 solved"),
      ("labels", #"{"text":"p","labels":["a"]}"#, [], 2, "--label-list"), ("labels", #"{"text":"p","labels":["a"]}"#, ["--label-list", "rows.jsonl"], 3, "not in the list"),
      ("embed", #"{"sentence1":"a","sentence2":"b"}"#, [], 3, "score"), ("embed", #"{"text":"a","score":1}"#, [], 3, "one text"),
      ("pairs", #"{"sentence1":"a","sentence2":"b","label":1}"#, [], 2, "no classifier"),
    ] as [(String, String, [String], Int32, String)])
  func refused(task: String, row: String, more: [String], code: Int32, words: String) throws {
    let path = try folder.write("rows.jsonl", row + "\n")
    let result = try Program.run(["evaluate", Self.model, path, "--task", task] + more, folder: folder.path)
    #expect(result.code == code && result.errorLines.count == 1 && result.errors.contains(words), "\(result.code) \(result.errors)")
  }
}
