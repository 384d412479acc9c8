import Foundation
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("quantize --encoder calibrated")
struct CalibrateCommandTests {
  let folder = TemporaryFolder()
  static let text = fixture("stories.txt")

  func run(_ arguments: [String]) throws -> Program.Result { try Program.run(["quantize"] + arguments) }

  func calibrated(_ output: String, _ more: [String], model: String = stories) throws -> Program.Result {
    try run([model, "-o", folder.file(output), "--encoder", "calibrated"] + more)
  }

  @Test("The summary says what was calibrated with what; the output is the same for any number of threads")
  func summary() throws {
    let first = try calibrated("a.nbl", ["--calibration", Self.text, "--calibration-tokens", "800", "--threads", "1", "-v"])
    #expect(first.code == 0, "\(first.errors)")
    for words in ["with 800 tokens of text", "of 35 packed tensors", "output error", "0 capped"] {
      #expect(first.output.contains(words), "\(first.output)")
    }
    // 800 tokens are few for 172 inputs, and the number is said.
    #expect(first.errors.contains("tokens to calibrate with are few for matrices of 172 inputs: 1720 would be enough"))
    let second = try calibrated(
      "b.nbl", ["--calibration", Self.text, "--calibration-tokens", "800", "--threads", "2", "--json", "-q"])
    #expect(second.code == 0 && second.errors.isEmpty, "\(second.errors)")
    #expect(try bytes(of: folder.file("a.nbl")) == bytes(of: folder.file("b.nbl")))
    let reported = try #require(try JSON.parse(second.output)["calibration"])
    #expect(reported["tokens"]?.int == 800 && reported["source"]?.string == "text" && reported["tensors"]?.array?.count == 35)
    let record = try Checkpoint.open(folder.file("a.nbl")).provenance?["options"]
    #expect(try Checkpoint.open(folder.file("a.nbl")).encoder == .mseSigned)
    #expect(record?["encoder"]?.string == "calibrated" && record?["calibration"]?["tokens"]?.int == 800)
    #expect(record?.text().contains(Self.text) == false)
    #expect(try Program.run(["verify", folder.file("a.nbl")]).code == 0)
    // Codes move between containers as any others do.
    #expect(try Program.run(["convert", folder.file("a.nbl"), "-o", folder.file("bnb"), "--format", "bnb"]).code == 0)
    #expect(try calibrated("direct", ["--calibration", Self.text, "--calibration-tokens", "800", "--format", "bnb", "-q"]).code == 0)
    #expect(
      try Program.run(["hash", folder.file("bnb"), "-q"]).output.prefix(32)
        == Program.run(["hash", folder.file("direct"), "-q"]).output.prefix(32))
  }

  @Test("int4 groups, by GPTQ too; auto reads a text where a model can, and searches scales where it cannot")
  func others() throws {
    let groups = ["--codec", "int4", "--group-size", "32", "--tensor", "down_proj=nf4", "--calibration", Self.text, "--calibration-tokens", "800"]
    func record(_ name: String) throws -> JSON? { try Checkpoint.open(folder.file(name)).provenance?["options"] }
    for encoder in ["calibrated", "gptq", "auto"] {
      let result = try run([stories, "-o", folder.file(encoder + ".nbl"), "--encoder", encoder, "-q"] + groups)
      #expect(result.code == 0, "\(result.errors)")
      // GPTQ leaves the five tensors in nf4 to mse.
      #expect(result.output.contains("of 35 packed tensors") && result.output.contains("not calibrated") == (encoder == "gptq"))
      #expect(try record(encoder + ".nbl")?["encoder"]?.string == (encoder == "gptq" ? "gptq" : "calibrated"))
      #expect(try Program.run(["verify", folder.file(encoder + ".nbl"), "-q"]).code == 0)
    }
    #expect(try bytes(of: folder.file("auto.nbl")) == bytes(of: folder.file("calibrated.nbl")))
    #expect(try bytes(of: folder.file("gptq.nbl")) != bytes(of: folder.file("calibrated.nbl")))
    // An encoder of sentences writes no text.
    let roberta = try run([fixture("models/roberta"), "-o", folder.file("r.nbl"), "--encoder", "auto", "-q"])
    #expect(roberta.code == 0 && roberta.output.contains("mse-signed"), "\(roberta.output)\(roberta.errors)")
    #expect(try record("r.nbl")?["encoder"]?.string == "mse-signed")
  }

  @Test("A correction beside the codes is an adapter of them, and brings the model nearer to the float one")
  func correction() throws {
    let path = folder.file("a.nbl")
    let given = ["--calibration", Self.text]
    let result = try calibrated("a.nbl", given + ["--correction", "4", "--json"])
    #expect(result.code == 0, "\(result.errors)")
    let said = try JSON.parse(result.output)
    let corrected = said["correction"]?["output_error"]?.double ?? .nan, plain = said["calibration"]?["output_error"]?.double ?? .nan
    #expect(corrected < plain && said["correction"]?["modules"]?.int ?? 0 > 25)
    let adapter = folder.file("a-correction")
    #expect(said["correction"]?["output"]?.string == adapter)
    func divergence(_ more: [String]) throws -> Double {
      let found = try Program.run(
        ["evaluate", "--base", path, "--data", Self.text, "--compare-to", stories, "--context", "96", "--json", "-q"] + more)
      return try JSON.parse(found.output)["compared_to"]?["kl_divergence"]?.double ?? .nan
    }
    // On the text it was fitted to: 0.67.
    #expect(try divergence(["--adapter", adapter]) < 0.8 * divergence([]))
    #expect(try Program.run(["adapter", "inspect", adapter, "--base", path]).code == 0)
    #expect(try Program.run(["verify", adapter]).code == 0)
    let text = try Program.run(["generate", "--base", path, "--adapter", adapter, "--prompt", "Once", "--max-new-tokens", "4"])
    #expect(text.code == 0, "\(text.errors)")
    // The model it was packed from needs no correction.
    #expect(try Program.run(["merge", stories, adapter, "-o", folder.file("merged"), "--min-survival", "0"]).code == 5)
    for (flags, words) in [
      (["--encoder", "calibrated", "--correction", "0"], "--correction 0"),
      (["--correction-output", "x"], "goes with --correction"),
      (["--encoder", "calibrated", "--correction", "4", "--correction-output", adapter] + given, adapter),
      (["--encoder", "calibrated", "--correction", "4", "--correction-output", folder.file("b.nbl")] + given, "the output itself"),
    ] {
      let result = try run([stories, "-o", folder.file("b.nbl")] + flags)
      #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains(words), "\(result.errors)")
      #expect(PathKind(folder.file("b.nbl")) == .nothing)
    }
  }

  @Test("A target of bits or of bytes is kept, and its rules give the same file")
  func budgets() throws {
    let rules = folder.file("rules.txt"), path = folder.file("a.nbl")
    let first = try run([stories, "-o", path, "--target-bits", "5.5", "--write-rules", rules, "--calibration", Self.text, "--json"])
    #expect(first.code == 0, "\(first.errors)")
    #expect(first.errors.contains("bits per weight in 35 tensors") && first.errors.contains("int8"))
    let budget = try #require(try JSON.parse(first.output)["budget"])
    let bits = try #require(budget["bits"]?.double)
    #expect(bits <= 5.5 && bits > 5.3)
    #expect(Set(budget["tensors"]?.array?.compactMap { $0["codec"]?.string } ?? []).count > 1)
    let again = try run([stories, "-o", folder.file("b.nbl"), "--tensor", "@" + rules, "-q"])
    #expect(again.code == 0, "\(again.errors)")
    func identity(_ path: String) throws -> String { try Program.run(["hash", path, "-q"]).output.prefix(32).description }
    #expect(try identity(path) == identity(folder.file("b.nbl")))
    // Two thirds of the weights take 16 bits as they are: 300,000 bytes leave room for a little more than the smallest codes.
    let smallest = try run([stories, "-o", folder.file("c.nbl"), "--target-size", "10kB", "-q"])
    #expect(smallest.code == 2 && smallest.errors.contains("at least"), "\(smallest.errors)")
    let plain = try JSON.parse(Program.run(["plan", "quantize", stories, "--json"]).output)["bytes_out"]?.int ?? 0
    let sized = try run([stories, "-o", folder.file("c.nbl"), "--target-size", "\(plain + 20_000)", "-q"])
    #expect(sized.code == 0, "\(sized.errors)")
    let size = try bytes(of: folder.file("c.nbl")).count
    #expect(size <= plain + 20_000 && size > plain + 10_000)
    let second = try run([stories, "-o", path, "--target-bits", "5"])
    #expect(second.code == 2 && second.errorLines.count == 1 && second.errors.contains(path), "\(second.errors)")
    #expect(try Program.run(["plan", "quantize", stories, "-o", path, "--target-bits", "5", "--calibration", Self.text, "-q"]).code == 0)
    for (flags, words) in [
      (["--target-bits", "5", "--write-rules", rules], "--write-rules"), (["--target-bits", "5", "--target-size", "1MB"], "exclude each other"), (["--target-bits", "nan"], "--target-bits"),
      (["--target-bits", "3"], "at least"), (["--write-rules", "x"], "--write-rules goes with"), (["--target-bits", "5", "--codec", "fp4"], "--codec fp4"),
      (["--target-bits", "5", "--block-size", "128"], "--block-size"), (["--target-bits", "5", "--group-size", "128"], "--group-size"),
    ] {
      let result = try run([stories, "-o", folder.file("d.nbl")] + flags)
      #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains(words), "\(result.errors)")
    }
  }

  @Test("A budget of int4 folders leaves layers at 16 bit, those that are computed together together")
  func foldersBudget() throws {
    let rules = folder.file("rules.txt"), path = folder.file("ct")
    let flags = ["--format", "compressed-tensors", "--group-size", "32", "--keep", "down_proj", "--encoder", "mse"]
    let result = try run([stories, "-o", path, "--target-bits", "14", "--write-rules", rules, "--calibration", Self.text, "--json"] + flags)
    #expect(result.code == 0, "\(result.errors)")
    #expect(!result.errors.contains("vLLM") && !result.errors.contains("nf4") && result.errors.contains("int4:group=32"))
    let budget = try #require(try JSON.parse(result.output)["budget"])
    #expect(budget["bits"]?.double ?? 0 <= 14)
    var byLayer: [String: Set<String>] = [:]
    for tensor in budget["tensors"]?.array ?? [] {
      let (name, codec) = (try #require(tensor["name"]?.string), try #require(tensor["codec"]?.string))
      let parts = name.split(separator: ".")
      let together = ["q_proj", "k_proj", "v_proj"].contains(String(parts[4])) ? "qkv" : parts[4] == "o_proj" ? "o" : "mlp"
      byLayer[parts[2] + together, default: []].insert(codec)
    }
    #expect(byLayer.count == 15 && byLayer.values.allSatisfy { $0.count == 1 })
    #expect(Set(byLayer.values.flatMap { $0 }) == ["int4:group=32", "keep"])
    #expect(try Program.run(["evaluate", "--base", path, "--data", Self.text, "-q"]).code == 0)
    #expect(try run([stories, "-o", folder.file("again"), "--tensor", "@" + rules, "-q"] + flags).code == 0)
    func identity(_ path: String) throws -> String { try Program.run(["hash", path, "-q"]).output.prefix(32).description }
    #expect(try identity(path) == identity(folder.file("again")))
  }

  @Test("bf16 passes: the same file for any number of threads, another one than with fp32, and the record says so")
  func precision() throws {
    let given = ["--calibration", Self.text, "--calibration-tokens", "256", "-q"]
    for (name, more) in [("a", ["-j", "1"]), ("b", ["-j", "2"])] {
      #expect(try calibrated(name + ".nbl", given + more + ["--compute-dtype", "bf16"]).code == 0)
    }
    #expect(try calibrated("c.nbl", given).code == 0)
    #expect(try bytes(of: folder.file("a.nbl")) == bytes(of: folder.file("b.nbl")))
    #expect(try bytes(of: folder.file("a.nbl")) != bytes(of: folder.file("c.nbl")))
    func record(_ name: String) throws -> JSON? { try Checkpoint.open(folder.file(name)).provenance?["options"]?["calibration"] }
    #expect(try record("a.nbl")?["compute_dtype"]?.string == "bf16" && record("c.nbl")?["compute_dtype"] == nil)
    let words = [stories, "--data", Self.text, "--tokens", "300", "-q"]
    #expect(try Program.run(["calibrate"] + words + ["-o", folder.file("s"), "--compute-dtype", "bf16"]).code == 0)
    #expect(try Program.run(["plan", "quantize", stories, "--encoder", "calibrated", "--compute-dtype", "bf16"]).output.contains(" min and "))
    let statistics = try calibrated("d.nbl", ["--statistics", folder.file("s"), "--compute-dtype", "bf16"])
    #expect(statistics.code == 2 && statistics.errors.contains("leave out --compute-dtype"), "\(statistics.errors)")
    let unused = try run([stories, "-o", folder.file("d.nbl"), "--compute-dtype", "bf16"])
    #expect(unused.code == 2 && unused.errors.contains("--compute-dtype is for --encoder calibrated"), "\(unused.errors)")
  }

  @Test("Without a text the model writes its own, by its seed")
  func own() throws {
    var outputs: [[UInt8]] = []
    for (name, seed, threads) in [("a", "1", "1"), ("b", "1", "2"), ("c", "2", "2")] {
      let result = try calibrated(
        name + ".nbl", ["--calibration-tokens", "512", "--seed", seed, "--threads", threads, "-q"])
      #expect(result.code == 0, "\(result.errors)")
      #expect(result.output.contains("512 tokens the model wrote itself"))
      outputs.append(try bytes(of: folder.file(name + ".nbl")))
    }
    #expect(outputs[0] == outputs[1] && outputs[1] != outputs[2])
  }

  @Test("Text and the model's own, in the share that is asked for")
  func blend() throws {
    let given = ["--calibration", Self.text, "--calibration-tokens", "800"]
    let result = try calibrated("a.nbl", given + ["--own-text", "0.25", "--seed", "4", "-q"])
    #expect(result.code == 0 && result.output.contains("800 tokens, 200 of them the model's own"), "\(result.output)\(result.errors)")
    let record = try Checkpoint.open(folder.file("a.nbl")).provenance?["options"]?["calibration"]
    #expect(record?["source"]?.string == "text+self-written" && record?["own_tokens"]?.int == 200 && record?["seed"]?.int == 4)
    #expect(try Program.run(["plan", "quantize", stories, "--encoder", "calibrated", "--own-text", "0.5"] + given).output.contains("400 of them"))
    for (flags, words) in [
      (given + ["--own-text", "1"], "between 0 and 1"), (given + ["--own-text", "nan"], "--own-text"), (["--own-text", "0.5"], "goes with --calibration"),
    ] {
      let result = try calibrated("b.nbl", flags)
      #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains(words), "\(result.errors)")
    }
  }

  @Test("Rows of text, of ids and of both; folders of such files")
  func rows() throws {
    let ids = (3..<120).map(String.init).joined(separator: ",")
    try folder.write("texts/a.jsonl", #"{"text": "Once upon a time there was a dog."}"# + "\n" + #"{"input_ids": [\#(ids)]}"# + "\n")
    try folder.write("texts/b.txt", "Lily had a red ball. She liked it very much.\n")
    try folder.write("texts/c.bin", "not a text")
    let result = try calibrated("a.nbl", ["--calibration", folder.file("texts"), "-q", "--json"])
    #expect(result.code == 0, "\(result.errors)")
    #expect(try JSON.parse(result.output)["calibration"]?["tokens"]?.int ?? 0 > 130)
    // Rows of ids need no tokenizer.
    let llama = try calibrated("b.nbl", ["--calibration", folder.file("ids.jsonl"), "-q"], model: fixture("models/llama"))
    #expect(llama.code == 3)
    try folder.write("ids.jsonl", #"{"input_ids": [\#((3..<60).map(String.init).joined(separator: ","))]}"#)
    #expect(try calibrated("b.nbl", ["--calibration", folder.file("ids.jsonl"), "-q"], model: fixture("models/llama")).code == 0)
  }

  @Test("A plan says minutes and memory and writes nothing")
  func plan() throws {
    let result = try Program.run([
      "plan", "quantize", stories, "--encoder", "calibrated", "--calibration", Self.text, "--calibration-tokens", "800",
    ])
    #expect(result.code == 0, "\(result.errors)")
    #expect(result.output.contains("800 tokens of text, about ") && result.output.contains(" min and "))
    let own = try Program.run(["plan", "quantize", stories, "--encoder", "calibrated", "--json"])
    #expect(try JSON.parse(own.output)["calibration"]?["tokens"]?.int == 65536)
    #expect(folder.contents.isEmpty)
  }

  @Test("What is refused, on one line, and nothing is left")
  func refusals() throws {
    try folder.write("broken.jsonl", #"{"text": "fine"}"# + "\n" + #"{"text": "#)
    try folder.write("wrong.jsonl", #"{"words": "fine"}"#)
    try folder.write("beyond.jsonl", #"{"input_ids": [5, 100000]}"#)
    try folder.write("empty.txt", "")
    let before = folder.contents
    let cases: [(arguments: [String], code: Int32, words: [String])] = [
      (["--calibration", folder.file("broken.jsonl")], 3, ["broken.jsonl:2"]),
      (["--calibration", folder.file("wrong.jsonl")], 3, ["wrong.jsonl:1", "words"]),
      (["--calibration", folder.file("beyond.jsonl")], 3, ["beyond.jsonl:1", "100000"]),
      (["--calibration", folder.file("empty.txt")], 3, ["empty.txt"]),
      (["--calibration", folder.file("missing.txt")], 3, ["missing.txt"]),
      (["--calibration-tokens", "0"], 2, ["--calibration-tokens"]),
      (["--calibration", Self.text, "--max-memory", "20MB"], 2, ["--max-memory", "fewer tokens"]),
    ]
    for (arguments, code, words) in cases {
      let result = try calibrated("out.nbl", arguments)
      #expect(result.code == code, "\(arguments): \(result.errors)")
      #expect(result.errorLines.count == 1, "\(result.errors)")
      for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
    }
    let ignored = try run([stories, "-o", folder.file("out.nbl"), "--calibration", Self.text])
    #expect(ignored.code == 2 && ignored.errors.contains("--encoder calibrated"))
    let encoder = try calibrated("out.nbl", [], model: fixture("models/roberta"))
    #expect(encoder.code == 2 && encoder.errors.contains("--calibration"), "\(encoder.errors)")
    #expect(folder.contents == before)
  }

  @Test("An encoder whose states are no numbers: no tensor is taken to cost nothing")
  func nothing() throws {
    let source = fixture("models/roberta"), ids = (3..<60).map(String.init).joined(separator: ",")
    var weights = try bytes(of: source + "/model.safetensors")
    let entry = try #require(try SmallSafetensors(source + "/model.safetensors").entry("roberta.encoder.layer.1.output.LayerNorm.weight"))
    for place in entry.range where place % 4 == 3 { weights[place] = 0x7F }
    try folder.write("big/config.json", bytes(of: source + "/config.json"))
    try folder.write("big/model.safetensors", weights)
    try folder.write("ids.jsonl", #"{"input_ids": [\#(ids)]}"#)
    let result = try run([folder.file("big"), "-o", folder.file("out.nbl"), "--target-bits", "5", "--calibration", folder.file("ids.jsonl"), "-q"])
    #expect(result.code == 6 && result.errorLines.count == 1 && result.errors.contains("what packing it costs is not finite"), "\(result.errors)")
    #expect(PathKind(folder.file("out.nbl")) == .nothing)
  }

  @Test("A layer whose numbers overflow is named, with exit code 6")
  func overflow() throws {
    let text = try bytes(of: fixture("stories260K/config.json")), tokenizer = try bytes(of: fixture("stories260K/tokenizer.model"))
    try folder.write("big/config.json", text)
    try folder.write("big/tokenizer.model", tokenizer)
    // Norms of 10³⁸ in layer 2.
    var weights = try bytes(of: fixture("stories260K/model.safetensors"))
    let file = try SmallSafetensors(fixture("stories260K/model.safetensors"))
    let entry = try #require(file.entry("model.layers.2.post_attention_layernorm.weight"))
    for place in entry.range where place % 4 == 3 { weights[place] = 0x7E }
    try folder.write("big/model.safetensors", weights)
    let result = try calibrated("out.nbl", ["--calibration", Self.text, "--calibration-tokens", "256", "-q"], model: folder.file("big"))
    #expect(result.code == 6 && result.errorLines.count == 1 && result.errors.contains("layers.2.mlp"), "\(result.errors)")
    #expect(PathKind(folder.file("out.nbl")) == .nothing)
    let budget = try run([folder.file("big"), "-o", folder.file("out.nbl"), "--target-bits", "5", "--calibration", Self.text, "-q"])
    #expect(budget.code == 6 && budget.errorLines.count == 1 && budget.errors.contains("NaN"), "\(budget.errors)")
    #expect(PathKind(folder.file("out.nbl")) == .nothing)
  }
}
