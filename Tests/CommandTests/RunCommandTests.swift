import Foundation
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("The verbs that run a model")
struct RunCommandTests {
  let folder = TemporaryFolder()
  static let llama = fixture("models/llama")
  static let adapters = fixture("adapters")
  static let ids = fixture("forward/decoder_base.safetensors")
  static let begin = "Once upon a time, there was a little girl"

  func expectOneLine(_ result: Program.Result, _ code: Int32, mentioning words: [String] = []) {
    #expect(result.signal == nil)
    #expect(result.code == code, "\(result.errors)")
    #expect(result.errorLines.count == 1, "\(result.errors)")
    #expect(result.errors.hasPrefix("nibble: error: "), "\(result.errors)")
    for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
  }

  func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json"])
    #expect(result.code == 0, "\(result.errors)")
    return try JSON.parse(result.output)
  }

  @Test("generate tells a story, from a folder, a block file and a bitsandbytes folder")
  func generate() throws {
    let plain = try json(["generate", "--base", stories, "--prompt", Self.begin, "--max-new-tokens", "47"])
    #expect(plain["text"]?.string?.hasPrefix(" named Lily. She loved to play outside in the park.") == true)
    #expect(plain["prompt_tokens"]?.int == 13)
    #expect(plain["new_tokens"]?.int == 47)
    #expect(plain["ids"]?.array?.count == 47)
    #expect((plain["prompt_seconds"]?.double ?? -1) > 0 && (plain["decode_seconds"]?.double ?? -1) > 0)
    for output in ["s.nbl", "s-bnb"] {
      let format = output == "s.nbl" ? "nbl" : "bnb"
      #expect(try Program.run(["quantize", stories, "-o", folder.file(output), "--format", format]).code == 0)
      #expect(
        try json(["generate", "--base", folder.file(output), "--prompt", Self.begin])["text"]?.string?.hasPrefix(" named Lily")
          == true)
    }
    // What is shown as it comes is what the document says.
    let shown = try Program.run(["generate", "--base", stories, "--prompt", Self.begin, "--max-new-tokens", "47"])
    #expect(shown.output == (plain["text"]?.string ?? "") + "\n")
  }

  @Test("generate stops at a stop string, and cuts it off")
  func stop() throws {
    let result = try json(["generate", "--base", stories, "--prompt", Self.begin, "--stop", "loved", "--stop", "zzz"])
    #expect(result["text"]?.string == " named Lily. She ")
    #expect(result["reason"]?.string == "stop")
  }

  @Test("generate takes rows of prompts, each as if it were the only one")
  func rows() throws {
    try folder.write("p.jsonl", #"{"prompt": "Once upon a time"}"# + "\n\n" + #"{"prompt": "Tom had a red ball."}"# + "\n")
    let both = try json(["generate", "--base", stories, "--prompts", folder.file("p.jsonl"), "--max-new-tokens", "20"])
    let results = try #require(both["results"]?.array)
    for (row, prompt) in ["Once upon a time", "Tom had a red ball."].enumerated() {
      let single = try json(["generate", "--base", stories, "--prompt", prompt, "--max-new-tokens", "20"])
      #expect(results[row]["text"] == single["text"])
    }
  }

  @Test("rows that name their adapters need no --use, and answers are distinguished")
  func rowsWithAdapters() throws {
    let adapter = folder.file("adapter"), data = try folder.write("data.jsonl", #"{"text": "Once upon a time"}"#)
    #expect(try Program.run(["finetune", "--base", stories, "--data", data, "-o", adapter, "--max-steps", "1"]).code == 0)
    let rows = #"{"prompt": "One day", "use": "a"}"# + "\n" + #"{"prompt": "Tom had", "use": "b"}"# + "\n"
    let named = try folder.write("named.jsonl", rows)
    let base = ["generate", "--base", stories, "--adapter", "a=" + adapter, "--adapter", "b=" + adapter, "--max-new-tokens", "4"]
    let result = try Program.run(base + ["--prompts", named])
    #expect(result.code == 0, "\(result.errors)")
    let lines = result.output.split(separator: "\n", omittingEmptySubsequences: false)
    #expect(lines.first == "==> 1 [a]: One day <==" && lines.contains("==> 2 [b]: Tom had <=="), "\(result.output)")
    let unnamed = try folder.write("unnamed.jsonl", rows + #"{"prompt": "One"}"#)
    expectOneLine(try Program.run(base + ["--prompts", unnamed]), 2, mentioning: ["unnamed.jsonl:3", "--use"])
  }

  @Test("generation stops where the context is full, and says so", arguments: [[], ["--num-beams", "2"]])
  func fullContext(_ more: [String]) throws {
    let prompt = String(repeating: "Once upon a time ", count: 99)
    let words = ["generate", "--base", stories, "--prompt", prompt, "--max-new-tokens", "9999", "--ignore-eos", "-j", "1"] + more
    let result = try Program.run(words + ["--json"])
    let json = try JSON.parse(result.output)
    #expect(json["prompt_tokens"]?.int.map { $0 + (json["new_tokens"]?.int ?? 0) } == 512)
    #expect(json["reason"]?.string == "context")
    let shown = try Program.run(words)
    #expect(shown.code == 0 && shown.errors.contains("stopped because the context of 512 tokens is full"), "\(shown.errors)")
  }

  @Test("a prompt that fills the context is refused, or cut where that is asked for")
  func longPrompt() throws {
    let words = ["generate", "--base", stories, "--prompt", String(repeating: "Once upon a time ", count: 200), "--max-new-tokens", "2"]
    expectOneLine(try Program.run(words), 2, mentioning: ["512", "--max-prompt-tokens 510"])
    let cut = try Program.run(words + ["--max-prompt-tokens", "20", "--json"])
    #expect(cut.errors.contains("only its last 20 are used"))
    #expect(try JSON.parse(cut.output)["prompt_tokens"]?.int == 20)
  }

  @Test("a prompt comes from standard input", arguments: [[], ["--prompt", "-"]])
  func standardInput(_ more: [String]) throws {
    func run(_ text: String) throws -> Program.Result {
      let input = Pipe()
      try input.fileHandleForWriting.write(contentsOf: Data(text.utf8))
      try input.fileHandleForWriting.close()
      return try Program.run(["generate", "--base", stories, "--max-new-tokens", "8"] + more, standardInput: input)
    }
    let said = try Program.run(["generate", "--base", stories, "--prompt", "One day", "--max-new-tokens", "8"])
    let piped = try run("One day\n")
    #expect(said.code == 0 && piped.output == said.output)
    expectOneLine(try run(""), 2, mentioning: ["--prompt", "--interactive"])
  }

  @Test("the speed of prompt and generation goes to standard error, unless --quiet")
  func speed() throws {
    let words = ["generate", "--base", stories, "--prompt", Self.begin, "--max-new-tokens", "8"]
    let errors = try Program.run(words).errors
    #expect(errors.contains("prompt: 13 tokens, ") && errors.contains("; generation: 7 tokens, "), "\(errors)")
    #expect(try Program.run(words + ["-q"]).errors.isEmpty)
  }

  @Test("generate by beams says what they scored")
  func beams() throws {
    let result = try json(["generate", "--base", stories, "--prompt", "One day", "--num-beams", "3", "--max-new-tokens", "12"])
    #expect((result["score"]?.double ?? 0) < 0)
    #expect(result["new_tokens"]?.int == 12)
  }

  @Test("evaluate gives the perplexity of both forms, and how far they are apart")
  func evaluate() throws {
    #expect(try Program.run(["quantize", stories, "-o", folder.file("s.nbl")]).code == 0)
    let data = fixture("stories.txt")
    let plain = try json(["evaluate", "--base", stories, "--task", "perplexity", "--data", data])
    let packed = try json(["evaluate", "--base", folder.file("s.nbl"), "--data", data, "--compare-to", stories])
    #expect(abs((plain["perplexity"]?.double ?? 0) - 4.12) < 0.02)
    #expect(abs((packed["perplexity"]?.double ?? 0) - 4.56) < 0.02)
    #expect(packed["compared_to"]?["perplexity"] == plain["perplexity"])
    let same = try json(["evaluate", "--base", stories, "--data", data, "--compare-to", stories])
    #expect((same["compared_to"]?["kl_divergence"]?.double ?? 1) < 1e-9)
    #expect(same["compared_to"]?["top1_agreement"]?.double == 1)
    let whole = try json([
      "evaluate", "--base", stories, "--data", data, "--context", "64", "--stride", "32", "--windows", "whole",
    ])
    #expect(whole["unscored_tokens"]?.int == 0)
    let first = try Program.run(["evaluate", "--base", stories, "--data", data, "--context", "64"])
    #expect(first.errors.contains("were not scored"))
  }

  @Test("evaluate compares a merge with the base and its adapters")
  func compared() throws {
    let adapter = fixture("shakespeare/adapter"), merged = folder.file("m")
    #expect(try Program.run(["merge", stories, adapter, "-o", merged, "--dtype", "fp32", "-q"]).code == 0)
    func divergence(_ more: [String]) throws -> Double {
      let found = try json(["evaluate", "--base", merged, "--data", fixture("stories.txt"), "--context", "96", "--compare-to", stories] + more)
      return found["compared_to"]?["kl_divergence"]?.double ?? .nan
    }
    #expect(try divergence(["--compare-adapter", adapter]) < 1e-8)
    #expect(try divergence([]) > 0.01 && divergence(["--compare-adapter", adapter + ":0.5"]) > 0.001)
  }

  @Test("forward writes what a pass gives, adapters on")
  func forward() throws {
    let out = folder.file("o.safetensors")
    let result = try json([
      "forward", "--base", Self.llama, "--adapter", Self.adapters + "/dec_rslora", "--ids", Self.ids, "-o", out,
    ])
    #expect((result["loss"]?.double ?? 0) > 0)
    let written = try TensorFile(out)
    let expected = try TensorFile(fixture("adapters/logits.safetensors"))
    let a = try written.floats(#require(written.tensor("logits")))
    let b = try expected.floats(#require(expected.tensor("dec_rslora")))
    #expect(zip(a, b).allSatisfy { abs($0 - $1) <= 5e-5 } && a.count == b.count)
    expectOneLine(try Program.run(["forward", "--base", Self.llama, "--ids", Self.ids, "-o", out]), 2, mentioning: ["--force"])
  }

  @Test("a block file with a flipped bit is not run, but where that is asked for", arguments: ["codes", "scaleCodes", "data"])
  func flippedBit(_ section: String) throws {
    let base = folder.file("s.nbl")
    #expect(try Program.run(["quantize", stories, "-o", base]).code == 0)
    let checkpoint = try Checkpoint.open(base)
    let name = section == "data" ? "model.embed_tokens.weight" : "model.layers.0.mlp.up_proj.weight"
    let stored = try #require(checkpoint.tensor(ByteName(name))?.sections.first { "\($0.kind)" == section })
    guard case .file(_, let offset) = stored.source else { throw NibbleError.usage("no section of a file") }
    var bytes = try bytes(of: base)
    // The least bit: no number becomes NaN.
    bytes[offset + stored.storedLength / 4 * 2] ^= 1
    try Data(bytes).write(to: URL(fileURLWithPath: base))
    let data = try folder.write("rows.jsonl", #"{"text": "Once upon a time"}"#)
    let runs: [[String]] = [
      ["generate", "--base", base, "--prompt", "One", "--max-new-tokens", "2"],
      ["evaluate", "--base", base, "--data", data, "--task", "lm"], ["evaluate", "--base", base, "--data", data],
      ["evaluate", "--base", stories, "--data", data, "--compare-to", base],
      ["forward", "--base", base, "--ids", Self.ids, "-o", folder.file("o.safetensors")],
      ["finetune", "--base", base, "--data", data, "-o", folder.file("adapter"), "--max-steps", "1"],
    ]
    for run in runs {
      expectOneLine(try Program.run(run + ["-q"]), 4, mentioning: [base, name, "section \(section)"])
      let result = try Program.run(run + ["-q", "--no-verify"])
      #expect(result.code == 0, "\(run[0]): \(result.errors)")
    }
  }

  @Test("a conversation goes on after what cannot be done, and ends with its input")
  func conversation() throws {
    let input = Pipe()
    try input.fileHandleForWriting.write(contentsOf: Data("\(Self.begin)\r\n/adapter x\n/adapter\n/help\n\nOne day".utf8))
    try input.fileHandleForWriting.close()
    let result = try Program.run(["generate", "--base", stories, "--interactive", "--max-new-tokens", "8"], standardInput: input)
    #expect(result.code == 2, "\(result.errors)")
    #expect(result.output.hasPrefix(" named Lily. She"))
    #expect(result.output.split(separator: "\n").count == 2)
    #expect(result.errorLines.count == 5 && result.errors.contains("'x'") && result.errors.contains("/exit "), "\(result.errors)")
  }

  @Test("Ctrl-C ends a conversation that waits for its next line")
  func interruptedConversation() throws {
    let input = Pipe()
    let result = try Program.run(["generate", "--base", stories, "--interactive"], standardInput: input) { process in
      // Long enough to be waiting; a signal that comes earlier ends it as well.
      usleep(400_000)
      kill(process.processIdentifier, SIGINT)
    }
    #expect(result.code == 130)
    #expect(withExtendedLifetime(input) { result.output.isEmpty })
  }

  @Test("adapters are chosen by name")
  func use() throws {
    let base = ["generate", "--base", Self.llama, "--tokenizer", stories, "--prompt", "One day"]
    // The tokenizer's ids do not all lie in this small vocabulary.
    expectOneLine(try Program.run(base), 3, mentioning: ["vocabulary"])
  }

  static let wrong: [([String], Int32)] = [
    (["generate", "--base", stories], 2), (["generate", "--base", stories, "--prompt", "a", "--interactive"], 2),
    (["generate", "--base", "/nowhere", "--prompt", "a"], 3),
    (["generate", "--base", fixture("adapters/dec_dora"), "--prompt", "a"], 3),
    (["generate", "--base", stories, "--prompt", "a", "--temperature", "-1"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--top-p", "0"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--max-prompt-tokens", "0"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--max-new-tokens", "-1"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--num-beams", "2", "--temperature", "1"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--use", "x"], 2),
    (["generate", "--base", stories, "--prompt", "a", "--adapter", "/nowhere"], 3),
    (["generate", "--base", stories, "--prompt", "a", "--adapter", "x=" + fixture("adapters/dec_dora")], 5),
    (["generate", "--base", stories, "--prompt", "a", "--adapter", fixture("models/llama")], 3),
    (["generate", "--base", stories, "--prompt", "a", "--compute-dtype", "fp16"], 2),
    (["generate", "--base", fixture("models/llama"), "--prompt", "a"], 3),
    (["generate", "--base", fixture("models/roberta"), "--prompt", "a", "--tokenizer", stories], 3),
    (["generate", "--base", stories, "--prompts", "/nowhere"], 3),
    (["evaluate", "--base", stories, "--data", "/nowhere"], 3),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--task", "poetry"], 2),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--context", "1"], 2),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--context", "513"], 2),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--stride", "0"], 2),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--compare-to", fixture("models/llama")], 3),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--compare-adapter", fixture("shakespeare/adapter")], 2),
    (["evaluate", "--base", stories, "--data", fixture("stories.txt"), "--compare-to", stories, "--compare-adapter", "/nowhere"], 3),
    (["evaluate", "--base", stories, "--data", fixture("stories260K/model.safetensors")], 3),
    (["forward", "--base", stories, "--ids", "/nowhere", "-o", "/tmp/nibble-x.safetensors"], 3),
    (["forward", "--base", stories, "--ids", fixture("stories260K/model.safetensors"), "-o", "/tmp/nibble-x.safetensors"], 3),
    (["forward", "--base", fixture("stories260K/model.safetensors"), "--ids", ids, "-o", "/tmp/nibble-x.safetensors"], 3),
    (["forward", "--base", stories, "--ids", ids, "-o", "/tmp/nibble-x.bin"], 2),
    (["forward", "--base", stories, "--ids", ids, "-o", "/nowhere/x.safetensors"], 7),
  ]

  @Test("what is wrong is said in one line, with the documented code", arguments: wrong)
  func errors(arguments: [String], code: Int32) throws {
    expectOneLine(try Program.run(arguments), code)
    #expect(!FileManager.default.fileExists(atPath: "/tmp/nibble-x.safetensors"))
  }

  @Test("inputs that do not fit a pass are refused")
  func badInputs() throws {
    func run(_ build: (inout SafetensorsBuilder) -> Void) throws -> Program.Result {
      var builder = SafetensorsBuilder()
      build(&builder)
      let path = try folder.write("in.safetensors", builder.bytes)
      return try Program.run(["forward", "--base", Self.llama, "--ids", path, "-o", folder.file("out.safetensors")])
    }
    func int64s(_ values: [Int64]) -> [UInt8] {
      values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value >> (8 * $0)) } }
    }
    expectOneLine(try run { $0.add("input_ids", "I64", [1, 2], int64s([1, 256])) }, 3, mentioning: ["256"])
    expectOneLine(try run { $0.add("input_ids", "I64", [1, 2], int64s([1, -5])) }, 3)
    expectOneLine(try run { $0.add("input_ids", "I64", [2], int64s([1, 5])) }, 3)
    expectOneLine(try run { $0.add("input_ids", [1, 2], [1, 5]) }, 3, mentioning: ["F32"])
    expectOneLine(try run { $0.add("input_ids", "I64", [1, 0], []) }, 3)
    expectOneLine(
      try run { $0.add("input_ids", "I64", [1, 200], int64s(Array(repeating: 1, count: 200))) }, 3, mentioning: ["context"])
    expectOneLine(
      try run {
        $0.add("input_ids", "I64", [1, 2], int64s([1, 5]))
        $0.add("labels", "I64", [1, 2], int64s([1, 999]))
      }, 3, mentioning: ["999"])
    expectOneLine(
      try run {
        $0.add("input_ids", "I64", [1, 2], int64s([1, 5]))
        $0.add("attention_mask", "I64", [1, 1], int64s([1]))
      }, 3)
    #expect(folder.contents == ["in.safetensors"])
  }
}
