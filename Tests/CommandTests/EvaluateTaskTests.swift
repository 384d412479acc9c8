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

  @Test("an evaluation that was interrupted goes on, and says the same")
  func resume() throws {
    let arguments = ["--question-style", "plain", "--json", "--predictions", folder.file("p.jsonl")]
    let path = try folder.write("rows.jsonl", Self.questions)
    func run(_ more: String...) throws -> Program.Result {
      try Program.run(["evaluate", Self.model, path, "--task", "choices"] + arguments + more, folder: folder.path)
    }
    let whole = try json(try run())
    let lines = try String(contentsOfFile: folder.file("p.jsonl"), encoding: .utf8).split(separator: "\n").map(String.init)
    #expect(lines.count == 6 && !folder.contents.contains("p.jsonl.partial"))
    // As a kill leaves it: what it is of, some rows, one of them with another score, and half of one.
    try FileManager.default.removeItem(atPath: folder.file("p.jsonl"))
    _ = try Program.run(
      ["evaluate", Self.model, path, "--task", "choices", "--question-style", "plain", "--predictions", folder.file("q.jsonl")], folder: folder.path,
      whileRunning: { process in
        while !FileManager.default.fileExists(atPath: folder.file("q.jsonl.partial")), process.isRunning { usleep(200) }
        kill(process.processIdentifier, SIGKILL)
      })
    // Killed before or after its end: the head of a journal is the same for both.
    guard let head = try? String(contentsOfFile: folder.file("q.jsonl.partial"), encoding: .utf8).split(separator: "\n").first else { return }
    try folder.write("p.jsonl.partial", ([String(head)] + lines.prefix(3)).joined(separator: "\n") + "\n" + String(lines[3].prefix(30)))
    let resumed = try json(try run("--resume"))
    #expect(resumed["acc"] == whole["acc"] && resumed["acc_norm_interval"] == whole["acc_norm_interval"])
    #expect(try String(contentsOfFile: folder.file("p.jsonl"), encoding: .utf8).split(separator: "\n").map(String.init) == lines)
    // The answers to other questions are not taken for these.
    try FileManager.default.removeItem(atPath: folder.file("p.jsonl"))
    try folder.write("p.jsonl.partial", "{\"task\": \"qa\"}\n" + lines[0] + "\n")
    let other = try run("--resume")
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
