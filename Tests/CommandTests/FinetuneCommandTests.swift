import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("The verb that trains")
struct FinetuneCommandTests {
  let folder = TemporaryFolder()
  static let llama = fixture("models/llama")

  func rows(_ count: Int = 30) throws -> String {
    let lines = (0..<count).map { row in
      "{\"input_ids\": [\((0..<9).map { String(($0 * 31 + row * 17) % 250 + 3) }.joined(separator: ", "))]}"
    }
    return try folder.write("train.jsonl", lines.joined(separator: "\n"))
  }

  func arguments(_ output: String, _ more: [String] = []) throws -> [String] {
    ["finetune", "--base", Self.llama, "--data", try rows(), "-o", folder.file(output), "-q", "--batch-size", "2"] + more
  }

  func adapter(_ name: String) throws -> [UInt8] { try bytes(of: folder.file(name + "/adapter_model.safetensors")) }

  @Test("leaves an adapter, its metrics, its options and a picture")
  func whole() throws {
    let result = try Program.run(try arguments("out", ["--max-steps", "5", "--json"]))
    #expect(result.code == 0, "\(result.errors)")
    #expect(try JSON.parse(result.output)["steps"]?.int == 5)
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.file("out")).sorted()
    #expect(names == ["README.md", "adapter_config.json", "adapter_model.safetensors", "checkpoint-5", "loss.svg", "metrics.jsonl", "run.yaml"])
    let again = try Program.run([
      "finetune", "--config", folder.file("out/run.yaml"), "-o", folder.file("again"), "-q",
    ])
    #expect(again.code == 0, "\(again.errors)")
    #expect(try adapter("out") == adapter("again"))
    let used = try Program.run(["adapter", "inspect", folder.file("out"), "--base", Self.llama, "--json", "-q"])
    #expect(try JSON.parse(used.output)["modules"]?.array?.count == 14)
    let merged = try Program.run([
      "merge", "--base", Self.llama, "--adapter", folder.file("out"), "-o", folder.file("merged"), "--check-model", "--json",
      "-q",
    ])
    #expect(try JSON.parse(merged.output)["model_difference"]?.double ?? 1 < 1e-5)
  }

  @Test("killed three times at any point, it comes to the same adapter")
  func killed() throws {
    let more = ["--max-steps", "40", "--save-steps", "3", "--lora-dropout", "0.1"]
    #expect(try Program.run(try arguments("whole", more)).code == 0)
    for (index, delay) in [120_000, 260_000, 60_000].enumerated() {
      let result = try Program.run(try arguments("parts", more + (index > 0 ? ["--resume"] : []))) { process in
        while !FileManager.default.fileExists(atPath: folder.file("parts/metrics.jsonl")), process.isRunning { usleep(500) }
        usleep(useconds_t(delay))
        kill(process.processIdentifier, SIGKILL)
      }
      #expect(result.signal == SIGKILL || result.code == 0, "\(result.errors)")
    }
    let last = try Program.run(try arguments("parts", more + ["--resume"]))
    #expect(last.code == 0, "\(last.errors)")
    #expect(try adapter("whole") == adapter("parts"))
  }

  func signal(_ numbers: [Int32], _ process: Process, after step: Int = 3) {
    let metrics = folder.file("out/metrics.jsonl")
    while (try? String(contentsOfFile: metrics, encoding: .utf8).split(separator: "\n").count) ?? 0 < step, process.isRunning { usleep(1000) }
    for number in numbers { kill(process.processIdentifier, number) }
  }

  @Test("a signal lets the step finish, saves a checkpoint and gives the command that resumes, to the same bytes", arguments: [(SIGINT, 130), (SIGTERM, 143)] as [(Int32, Int32)])
  func interrupted(_ number: Int32, _ code: Int32) throws {
    let run = try arguments("out", ["--max-steps", "300", "--save-steps", "1000", "--lora-dropout", "0.1"])
    let result = try Program.run(run) { signal([number], $0) }
    #expect(result.code == code && result.errorLines.count == 1, "\(result.errors)")
    let found = try #require(result.errors.firstMatch(of: #/after step ([0-9]+) of 300, with a checkpoint saved; --resume continues from it: (nibble .*)\n/#))
    #expect(PathKind(folder.file("out/checkpoint-\(found.1)")) == .folder)
    #expect(PathKind(folder.file("out/adapter_model.safetensors")) == .nothing)
    let resumed = try Program.shell(String(found.2), folder: folder.path)
    #expect(resumed.code == 0, "\(found.2): \(resumed.errors)")
    #expect(try Program.run(arguments("whole", ["--max-steps", "300", "--lora-dropout", "0.1"])).code == 0)
    #expect(try adapter("out") == adapter("whole"))
  }

  @Test("the first signal says what it does, the second stops at once")
  func interruptedTwice() throws {
    // One step of a minute.
    let run = try arguments("out", ["--max-steps", "3", "--gradient-accumulation-steps", "100000"]).filter { $0 != "-q" }
    let result = try Program.run(run) { process in
      while !FileManager.default.fileExists(atPath: folder.file("out/run.yaml")), process.isRunning { usleep(1000) }
      usleep(50_000)
      kill(process.processIdentifier, SIGINT)
      usleep(100_000)
      #expect(process.isRunning)
      kill(process.processIdentifier, SIGINT)
    }
    #expect(result.code == 130 && result.errorLines.last == "nibble: finishing this step to save a checkpoint; a second signal stops at once", "\(result.errors)")
    #expect(try Program.run(run + ["--max-steps", "1", "--resume"]).code == 2)
  }

  @Test("a run that is resumed may become longer, finished or not, and is then the longer run", arguments: [nil, "epochs"])
  func longer(_ unit: String?) throws {
    // 30 rows, 2 a step.
    func length(_ steps: Int) -> [String] { unit == nil ? ["--max-steps", "\(steps)"] : ["--epochs", "\(Double(steps) / 15)"] }
    let constant = ["--lr-scheduler", "constant"]
    #expect(try Program.run(arguments("whole", length(18) + constant)).code == 0)
    #expect(try Program.run(arguments("out", length(6) + constant)).code == 0)
    let result = try Program.run(arguments("out", length(18) + constant + ["--resume"]).filter { $0 != "-q" })
    #expect(result.code == 0 && result.errors.contains("takes 18 steps instead of 6\n"), "\(result.errors)")
    #expect(try adapter("out") == adapter("whole"))
    let shorter = try Program.run(arguments("out", length(6) + constant + ["--resume"]))
    #expect(shorter.code == 2 && shorter.errors.contains("can only become longer"), "\(shorter.errors)")
    #expect(shorter.errors.contains(unit == nil ? "with --max-steps 18, not with --max-steps 6" : "with --epochs 1.2, not with --epochs 0.4"), "\(shorter.errors)")
    #expect(try Program.run(arguments("linear", length(6))).code == 0)
    let linear = try Program.run(arguments("linear", length(12) + ["--resume"]).filter { $0 != "-q" })
    #expect(linear.code == 0 && linear.errors.contains("follows the schedule of the longer run"), "\(linear.errors)")
  }

  @Test("a full disk keeps the last good checkpoint")
  func fullDisk() throws {
    let result = try Faults.run("write-enospc:12", try arguments("out", ["--max-steps", "50", "--save-steps", "2"]))
    #expect(result.code == 7 && result.errorLines.count == 1, "\(result.code) \(result.errors)")
    let rest = try Program.run(try arguments("out", ["--max-steps", "50", "--save-steps", "2", "--resume"]))
    #expect(rest.code == 0, "\(rest.errors)")
  }

  @Test(
    "rows that cannot be used are named by file and line",
    arguments: [
      (#"{"input_ids": [1, 2]}\n{"tekst": 1}"#, "train.jsonl:2"), (#"{"input_ids": [1, 9999]}"#, "train.jsonl:1"),
      ("", "no rows"),
      (#"{"input_ids": [1, 2], "labels": [-100, -100]}"#, "no token"), (#"{"text": "hello"}"#, "tokenizer"),
      ("{", "train.jsonl:1"),
      (#"{"input_ids": [1, 2]}\n{"input_ids": [1, 2], "weight": NaN}"#, "train.jsonl:2: NaN is not a JSON"),
      (#"{"input_ids": [1, 2], "score": [0, -Infinity]}"#, "train.jsonl:1: -Infinity"),
    ])
  func badRows(_ text: String, _ saying: String) throws {
    let data = try folder.write("train.jsonl", text.replacingOccurrences(of: "\\n", with: "\n"))
    let result = try Program.run(["finetune", "--base", Self.llama, "--data", data, "-o", folder.file("out"), "-q"])
    #expect([2, 3].contains(result.code) && result.errorLines.count == 1, "\(result.errors)")
    #expect(result.errors.contains(saying), "\(result.errors)")
    #expect(folder.contents == ["train.jsonl"])
  }

  @Test(
    "options that make no sense are usage errors",
    arguments: [
      ["--lora-r", "0"], ["--learning-rate", "-1"], ["--target-modules", "nothing"], ["--batch-size", "0"],
      ["--lora-dropout", "1"],
      ["--method", "full", "--init-adapter", fixture("adapters/dec_lora_qv")], ["--template", "unknown"],
      ["--rank-pattern", "q"], ["--warmup-ratio", "2"], ["--early-stopping", "2"], ["--keep-best"],
      ["--group-by-length", "--no-shuffle"], ["--adam-beta1", "1"], ["--num-labels", "3", "--labels", "a,b"],
      ["--labels", "a,a"], ["--labels", "1,0"], ["--rank-pattern", "nope=4"], ["--rank-pattern", "lm_head=4"],
      ["--alpha-pattern", "q_proj=4", "--alpha-pattern", "self_attn.q_proj=5"], ["--modules-to-save", ","],
      ["--target-modules", "q_proj,nope"], ["--lora-r", "1000000000"],
      ["--max-memory", "1MB"], ["--batch-size", "10000000"],
    ])
  func badOptions(_ more: [String]) throws {
    let result = try Program.run(try arguments("out", ["--max-steps", "1"] + more))
    #expect(result.code == 2 && result.errorLines.count == 1, "\(result.code) \(result.errors)")
    #expect(folder.contents == ["train.jsonl"])
  }

  @Test("a first run may be called one to resume", arguments: [true, false])
  func resumesNothing(isThere: Bool) throws {
    #expect(try Program.run(try arguments("plain", ["--max-steps", "2"])).code == 0)
    if isThere { try FileManager.default.createDirectory(atPath: folder.file("out"), withIntermediateDirectories: false) }
    let words = try arguments("out", ["--max-steps", "2", "--resume"])
    let first = try Program.run(words.filter { $0 != "-q" })
    #expect(first.code == 0 && first.errors.contains("a new one begins"), "\(first.errors)")
    #expect(try adapter("out") == adapter("plain"))
    let second = try Program.run(words.filter { $0 != "-q" })
    #expect(second.code == 0 && !second.errors.contains("a new one begins"), "\(second.errors)")
    try folder.write("other/mine", "x")
    let other = try Program.run(try arguments("other", ["--max-steps", "2", "--resume"]))
    #expect(other.code == 2 && other.errors.contains("mine") && other.errorLines.count == 1, "\(other.errors)")
  }

  @Test("of two runs into one folder the second is refused, and the first goes on")
  func twoRuns() throws {
    let more = ["--max-steps", "400", "--save-steps", "5"]
    let first = try Program.run(try arguments("out", more)) { process in
      while !FileManager.default.fileExists(atPath: folder.file("out/checkpoint-5")), process.isRunning { usleep(1000) }
      for flag in ["--resume", "--force"] {
        let second = try? Program.run(try arguments("out", more + [flag]))
        #expect(second?.code == 2 && second?.errors.contains("another process") == true, "\(second?.errors ?? "")")
      }
      #expect(process.isRunning)
    }
    #expect(first.code == 0, "\(first.errors)")
  }

  @Test("texts of many classes, called by their names, are distinguished after training")
  func namedClasses() throws {
    let base = fixture("stories260K")
    let words = ["cat": ["the cat sat", "a cat ran home"], "dog": ["my dog barks", "the dog is big"]]
    let rows = (0..<8).flatMap { index in
      words.sorted { $0.key < $1.key }.map { "{\"text\": \"\($0.value[index % 2])\", \"labels\": [\"\($0.key)\"]}" }
    }
    let data = try folder.write("rows.jsonl", rows.joined(separator: "\n") + "\n{\"text\": \"the sun\", \"labels\": []}")
    let result = try Program.run([
      "finetune", "--base", base, "--data", data, "--valid", data, "-o", folder.file("out"), "--labels", "cat,dog",
      "--many-labels",
      "--learning-rate", "1e-2", "--max-steps", "60", "--batch-size", "4", "--group-by-length", "--json", "-q",
    ])
    #expect(result.code == 0, "\(result.errors)")
    let said = try JSON.parse(result.output)
    #expect(said["valid_accuracy"]?.double == 1 && said["valid_f1_macro"]?.double == 1 && said["padded_tokens"]?.int == 0)
    for more in [["--method", "full"], ["--epochs", "1e300"]] {
      let words = [
        "finetune", "--base", base, "--data", data, "-o", folder.file("x"), "--labels", "cat,dog", "--many-labels", "-q",
      ]
      let refused = try Program.run(words + more)
      #expect(refused.code == 2 && PathKind(folder.file("x")) == .nothing, "\(refused.errors)")
    }
    let judged = try Program.run([
      "evaluate", "--base", base, "--adapter", folder.file("out"), "--task", "classification", "--data", data, "--predictions",
      folder.file("said.jsonl"), "-q", "--json",
    ])
    #expect(try JSON.parse(judged.output)["accuracy"]?.double == 1, "\(judged.errors)")
    let lines = try String(decoding: bytes(of: folder.file("said.jsonl")), as: UTF8.self).split(separator: "\n")
    let predictions = try lines.map { try JSON.parse(Array($0.utf8))["predictions"]?.array?.map(\.string) }
    #expect(predictions.first == [["cat"]][0] && predictions.last == [[]][0])
    let first = try JSON.parse(Array(try #require(lines.first).utf8))
    #expect(first["text"]?.string == "the cat sat" && first["labels"] == ["cat"])
    let scores = try #require(first["scores"]?.array).compactMap(\.double)
    for (name, score) in zip(["cat", "dog"], scores) {
      #expect(abs(try #require(first["probabilities"]?[name]?.double) - 1 / (1 + exp(-score))) < 1e-6)
    }
  }

  @Test("predictions of one class each have text, names and probabilities that sum to 1")
  func predictions() throws {
    let rows = #"{"text": "the cat sat", "label": "cat"}"# + "\n" + #"{"text": "my dog barks", "label": 1}"# + "\n"
    let data = try folder.write("rows.jsonl", rows)
    let base = ["--base", fixture("stories260K"), "--data", data, "-q"]
    #expect(try Program.run(["finetune", "-o", folder.file("out"), "--labels", "cat,dog", "--max-steps", "1"] + base).code == 0)
    let result = try Program.run(
      ["evaluate", "--adapter", folder.file("out"), "--task", "classification", "--predictions", folder.file("said.jsonl")] + base)
    #expect(result.code == 0, "\(result.errors)")
    let lines = try String(decoding: bytes(of: folder.file("said.jsonl")), as: UTF8.self).split(separator: "\n").map { try JSON.parse(String($0)) }
    #expect(lines.map { $0["text"]?.string } == ["the cat sat", "my dog barks"] && lines.map { $0["label"]?.string } == ["cat", "dog"])
    for line in lines {
      let shares = try #require(line["probabilities"]?.members)
      let best = shares.max { $0.value.double ?? 0 < $1.value.double ?? 0 }
      #expect(shares.map(\.key) == ["cat", "dog"] && abs(shares.compactMap(\.value.double).reduce(0, +) - 1) < 1e-12)
      #expect(line["prediction"]?.string == best?.key)
    }
  }

  @Test("a task is asked at each validation, and its figure decides which is the best")
  func validationTask() throws {
    let base = fixture("stories260K")
    let rows = (0..<4).map { #"{"prompt":"Once upon a time, there was a little \#($0)","completion":"xqz wvk"}"# + "\n" }
    let data = try folder.write("rows.jsonl", rows.joined()), questions = try folder.write("q.jsonl", EvaluateTaskTests.questions)
    func train(_ output: String, _ more: [String]) throws -> Program.Result {
      try Program.run(
        [
          "finetune", "--base", base, "--data", data, "--valid", data, "-o", folder.file(output), "--max-steps", "6", "--eval-steps", "2", "--learning-rate",
          "1e-2", "--json", "-q",
        ] + more)
    }
    let task = ["--eval-task", "choices", "--eval-data", questions, "--eval-option", "question-style=plain", "--eval-option", "limit=2"]
    let result = try train("out", task + ["--metric-for-best-model", "acc_norm", "--keep-best"])
    #expect(result.code == 0, "\(result.errors)")
    let lines = try String(decoding: bytes(of: folder.file("out/metrics.jsonl")), as: UTF8.self).split(separator: "\n").map { try JSON.parse(String($0)) }
    let found = lines.compactMap { row in row["valid_acc_norm"]?.double.map { (step: row["step"]?.int ?? -1, value: $0) } }
    #expect(found.map(\.step) == [0, 2, 4, 6] && found[0].value == 1)
    let best = try #require(found.dropFirst().max { ($0.value, -$0.step) < ($1.value, -$1.step) })
    let said = try JSON.parse(result.output)
    #expect(said["best_step"]?.int ?? 6 == best.step && said["valid_acc_norm"]?.double == best.value)
    let judged = try Program.run(
      [
        "evaluate", "--base", base, "--adapter", folder.file("out"), "--task", "choices", "--data", questions, "--question-style", "plain", "--limit", "2",
        "--json", "-q",
      ])
    #expect(try JSON.parse(judged.output)["acc_norm"]?.double == best.value, "\(judged.errors)")
    let again = try Program.run(["finetune", "--config", folder.file("out/run.yaml"), "-o", folder.file("again"), "-q"])
    #expect(again.code == 0, "\(again.errors)")
    #expect(try adapter("again") == adapter("out"))
    // Which checkpoints there still are depends on it.
    let other = try train("out", task + ["--keep-best", "--resume"])
    #expect(other.code == 2 && other.errors.contains("--metric-for-best-model acc_norm"), "\(other.errors)")
    for (more, words) in [
      (["--eval-task", "perplexity"], "choices"), (["--eval-task", "choices", "--eval-option", "json=1"], "--eval-option"),
      (["--eval-task", "labels"], "--label-list"), (task + ["--metric-for-best-model", "bleu"], "loss, acc"),
    ] {
      let refused = try train("x", more)
      #expect(refused.code == 2 && refused.errorLines.count == 1 && refused.errors.contains(words) && PathKind(folder.file("x")) == .nothing, "\(refused.errors)")
    }
  }

  @Test("an adapter that is replaced stays until its successor is done")
  func replaced() throws {
    #expect(try Program.run(try arguments("out", ["--max-steps", "1"])).code == 0)
    let before = try adapter("out")
    let failed = try Program.run(
      try arguments("out", ["--max-steps", "3", "--force", "--learning-rate", "1e30", "--max-grad-norm", "0"]))
    #expect(failed.code == 6 && failed.errorLines.count == 1, "\(failed.errors)")
    #expect(try adapter("out") == before)
    #expect(try Program.run(try arguments("out", ["--max-steps", "2", "--force"])).code == 0)
    #expect(try adapter("out") != before)
  }

  @Test("a run that fails before its first checkpoint leaves nothing")
  func failed() throws {
    let result = try Program.run(try arguments("out", ["--max-steps", "3", "--learning-rate", "1e39"]))
    #expect(result.code == 6 && folder.contents == ["train.jsonl"], "\(result.errors)")
  }

  @Test(
    "only runs are resumed, with the same options; another option is named with both values",
    arguments: [
      (["--compute-dtype", "bf16"], "with --compute-dtype fp32, not with --compute-dtype bf16"),
      (["--lora-alpha", "3"], "with --lora-alpha 16.0, not with --lora-alpha 3.0"), (["--seed", "7"], "with --seed 0, not with --seed 7"),
      (["--no-shuffle"], "without --no-shuffle, not with --no-shuffle"), (["--warmup-steps", "2"], "without --warmup-steps, not with --warmup-steps 2"),
      (["--rank-pattern", "q_proj=2"], "without --rank-pattern, not with --rank-pattern q_proj=2"), (["--data", "other.jsonl"], "on other data"),
      (["--base", fixture("models/gpt2")], "on another base"), (["--init-adapter", "out"], "with another --init-adapter"),
    ])
  func otherRuns(_ more: [String], _ saying: String) throws {
    try folder.write("other.jsonl", "{\"input_ids\": [1, 2, 3]}")
    #expect(try Program.run(try arguments("out", ["--max-steps", "2"])).code == 0)
    let before = try adapter("out")
    try FileManager.default.copyItem(atPath: folder.file("out"), toPath: folder.file("copy"))
    var words = try arguments("out", ["--max-steps", "2", "--resume"])
    for (option, value) in zip(more, more.dropFirst()) {
      if let at = words.firstIndex(of: option) { words[at + 1] = value.hasSuffix(".jsonl") ? folder.file(value) : value }
    }
    if words == (try arguments("out", ["--max-steps", "2", "--resume"])) { words += more.map { $0 == "out" ? folder.file("copy") : $0 } }
    let other = try Program.run(words)
    #expect(other.code == 2 && other.errors.contains(saying), "\(other.errors)")
    #expect(try Program.run(try arguments("out", ["--max-steps", "2", "--resume"])).code == 0)
    #expect(try adapter("out") == before)
    try FileManager.default.removeItem(atPath: folder.file("out/run.yaml"))
    #expect(try Program.run(try arguments("out", ["--max-steps", "2", "--resume"])).code == 2)
    #expect(try adapter("out") == before)
  }

  @Test("what lies in a checkpoint's place and is none is not touched", arguments: ["--force", "--resume"])
  func strangers(_ flag: String) throws {
    let run = try arguments("out", ["--max-steps", "4", "--save-steps", "2"])
    #expect(try Program.run(run).code == 0)
    try folder.write("precious/thesis.txt", "x")
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("out/checkpoint-9"), withDestinationPath: folder.file("precious"))
    #expect(try Program.run(run + [flag]).code == 2)
    try FileManager.default.removeItem(atPath: folder.file("out/checkpoint-9"))
    for stranger in ["out/checkpoint-2/mine", "out/checkpoint-7"] {
      try folder.write(stranger, "x")
      #expect(try Program.run(run + [flag]).code == 2)
      #expect(PathKind(folder.file(stranger)) == .file && PathKind(folder.file("precious/thesis.txt")) == .file)
      try FileManager.default.removeItem(atPath: folder.file(stranger))
    }
    #expect(try Program.run(run + [flag]).code == 0)
  }

  @Test("a manifest that was edited is distinguished from the one that was written")
  func edited() throws {
    let run = try arguments("out", ["--max-steps", "4", "--save-steps", "2"])
    #expect(try Program.run(run).code == 0)
    let place = "out/checkpoint-4/manifest.json"
    let text = try String(contentsOfFile: folder.file(place), encoding: .utf8)
    try folder.write(place, text.replacingOccurrences(of: #""step": 4"#, with: #""step": 3"#))
    let result = try Program.run(run + ["--resume"])
    #expect(result.code == 4 && result.errors.contains("step 2"), "\(result.errors)")
  }

  @Test("flags that count for nothing beside others are warned of")
  func ignored() throws {
    #expect(try Program.run(try arguments("first", ["--max-steps", "1"])).code == 0)
    var words = try arguments(
      "out", ["--max-steps", "1", "--init-adapter", folder.file("first"), "--lora-r", "4", "--momentum", "0.5"])
    words.removeAll { $0 == "-q" }
    let result = try Program.run(words)
    #expect(result.code == 0)
    let biasless = try Program.run(try arguments("b", ["--max-steps", "1", "--bias", "all"]).filter { $0 != "-q" })
    #expect(biasless.code == 0 && biasless.errors.contains("no biases"), "\(biasless.errors)")
    #expect(result.errors.contains("--lora-r: ignored") && result.errors.contains("--momentum: ignored"), "\(result.errors)")
  }

  @Test("an adapter of another base is not trained on, unless asked")
  func otherBase() throws {
    let base = folder.file("base")
    try FileManager.default.copyItem(atPath: Self.llama, toPath: base)
    #expect(try Program.run(try arguments("first", ["--max-steps", "1"])).code == 0)
    var bytes = try bytes(of: base + "/model.safetensors")
    bytes[bytes.count - 1] ^= 1
    try Data(bytes).write(to: URL(fileURLWithPath: base + "/model.safetensors"))
    let words = [
      "finetune", "--base", base, "--data", try rows(), "-o", folder.file("out"), "-q", "--max-steps", "1", "--init-adapter",
      folder.file("first"),
    ]
    #expect(try Program.run(words).code == 5)
    #expect(try Program.run(words + ["--any-base"]).code == 0)
  }

  @Test("a configuration's lists are lists, and a switch that is off is off")
  func configuration() throws {
    let config = try folder.write("run.yaml", "target_modules: [q_proj, v_proj]\nforce: false\ngradient_checkpointing: false\n")
    #expect(try Program.run(try arguments("out", ["--max-steps", "1", "--config", config])).code == 0)
    let file = try String(contentsOfFile: folder.file("out/adapter_config.json"), encoding: .utf8)
    #expect(try JSON.parse(Array(file.utf8))["target_modules"] == ["q_proj", "v_proj"])
    for bad in ["lora_r: [3, 5]", "- lora_r: 3"] {
      let result = try Program.run(try arguments("bad", ["--max-steps", "1", "--config", folder.write("bad.yaml", bad)]))
      #expect(result.code == 2, "\(bad) \(result.errors)")
    }
  }

  @Test("rows to validate on that teach nothing are refused")
  func silentValidation() throws {
    let silent = try folder.write("valid.jsonl", #"{"input_ids": [1, 2], "labels": [-100, -100]}"#)
    #expect(try Program.run(try arguments("out", ["--max-steps", "1", "--valid", silent])).code == 3)
  }

  @Test("an output that is there, or is not ours, is not touched")
  func outputs() throws {
    try folder.write("mine/notes.txt", "x")
    for more in [[], ["--force"]] { #expect(try Program.run(try arguments("mine", ["--max-steps", "1"] + more)).code == 2) }
    #expect(try Program.run(try arguments("out", ["--max-steps", "1"])).code == 0)
    #expect(try Program.run(try arguments("out", ["--max-steps", "1"])).code == 2)
    #expect(try Program.run(try arguments("out", ["--max-steps", "1", "--force"])).code == 0)
  }

  @Test("an output that holds an input is refused, and the input stays")
  func outputIsInput() throws {
    #expect(try Program.run(try arguments("out", ["--max-steps", "1"])).code == 0)
    let before = try adapter("out")
    let result = try Program.run(
      try arguments("out", ["--max-steps", "1", "--init-adapter", folder.file("out"), "--force"]))
    #expect(result.code == 2 && result.errors.contains("holds the input"), "\(result.code) \(result.errors)")
    #expect(try adapter("out") == before)
  }

  func fullRun(_ output: String, _ more: [String] = []) throws -> [String] {
    let data = try folder.write("texts.jsonl", "{\"text\": \"Once upon a time there was a cat.\"}\n{\"text\": \"The sun is warm.\"}\n")
    return [
      "finetune", "--base", fixture("stories260K"), "--data", data, "--method", "full", "-o", folder.file(output), "-q", "--batch-size", "2",
      "--max-steps", "4",
    ] + more
  }

  @Test("the folder of a full run is the model")
  func fullModel() throws {
    let run = try fullRun("out", ["--save-steps", "2"])
    let result = try Program.run(run)
    #expect(result.code == 0, "\(result.errors)")
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.file("out")).sorted()
    #expect(names == [
      "LICENSE", "checkpoint-2", "checkpoint-4", "config.json", "loss.svg", "metrics.jsonl", "model.safetensors", "run.yaml", "tokenizer.model",
    ])
    for verb in [["generate", "--prompt", "Once", "--max-new-tokens", "4", "--base"], ["inspect"], ["verify"]] {
      let used = try Program.run(verb + [folder.file("out"), "-q"])
      #expect(used.code == 0, "\(verb) \(used.errors)")
    }
    let weights = try bytes(of: folder.file("out/model.safetensors"))
    #expect(try weights != bytes(of: fixture("stories260K/model.safetensors")))
    #expect(try Program.run(run).code == 2)
    for more in ["--force", "--resume"] {
      try FileManager.default.removeItem(atPath: folder.file("out/model.safetensors"))
      #expect(try Program.run(run + [more]).code == 0)
      #expect(try bytes(of: folder.file("out/model.safetensors")) == weights)
    }
  }

  @Test("a full run that is killed leaves the old model, none, or the new one, and resumes to the same bytes")
  func fullModelKilled() throws {
    #expect(try Program.run(try fullRun("new")).code == 0)
    let new = try bytes(of: folder.file("new/model.safetensors"))
    #expect(try Program.run(try fullRun("old", ["--learning-rate", "1e-3"])).code == 0)
    let old = try bytes(of: folder.file("old/model.safetensors"))
    var seen: Set<String> = []
    for call in 0..<40 {
      try? FileManager.default.removeItem(atPath: folder.file("out"))
      try FileManager.default.copyItem(atPath: folder.file("old"), toPath: folder.file("out"))
      let result = try Faults.run("fsync-kill:\(call)", try fullRun("out", ["--force"]))
      let isModel = PathKind(folder.file("out/config.json")) == .file
      let weights = try? bytes(of: folder.file("out/model.safetensors"))
      seen.insert(!isModel ? "none" : weights == new ? "new" : "old")
      #expect(!isModel || weights == new || weights == old, "call \(call)")
      guard result.signal == SIGKILL else { break }
      // Killed before it had written its options, it was no run yet.
      let again = try Program.run(try fullRun("out", ["--resume"]))
      #expect(try again.code == 0 || Program.run(fullRun("out", ["--force"])).code == 0, "call \(call): \(again.errors)")
      #expect(try bytes(of: folder.file("out/model.safetensors")) == new, "call \(call)")
      #expect(PathKind(folder.file("out/config.json")) == .file && PathKind(folder.file("out/model.nibble-partial")) == .nothing)
    }
    #expect(seen == ["old", "none", "new"])
  }

  @Test("a plan and a look at the batch train nothing")
  func plans() throws {
    let plan = try Program.run(["plan"] + arguments("out", ["--max-steps", "1"]))
    #expect(plan.code == 0 && plan.output.contains("peak memory"), "\(plan.errors)")
    let look = try Program.run(try arguments("out", ["--show-batch"]))
    #expect(look.code == 0 && look.output.contains("learn"), "\(look.errors)")
    #expect(folder.contents == ["train.jsonl"])
  }
}
