import Foundation
import NibbleCore
import TestSupport
import Testing

let stories = fixture("stories260K")

@Suite("The command line")
struct CommandTests {
  let folder = TemporaryFolder()

  func quantized(_ more: String...) throws -> String {
    let path = folder.file("s.nbl")
    let result = try Program.run(["quantize", stories, "-o", path] + more)
    #expect(result.code == 0, "\(result.errors)")
    return path
  }

  /// Exactly one line, in the form that is promised.
  func expectOneLine(_ result: Program.Result, _ code: Int32, mentioning words: [String] = []) {
    #expect(result.signal == nil)
    #expect(result.code == code, "\(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(result.errors.hasPrefix("nibble: error: "), "\(result.errors)")
    for word in words { #expect(result.errors.contains(word), "\(result.errors)") }
  }

  @Test("help and version")
  func help() throws {
    let help = try Program.run(["--help"])
    #expect(help.code == 0 && help.output.contains("quantize") && help.output.contains("Exit codes"))
    #expect(try Program.run(["--version"]).output.hasPrefix("nibble "))
    for verb in [
      "inspect", "plan", "quantize", "dequantize", "convert", "verify", "diff", "hash", "tokenize", "forward", "generate",
      "evaluate", "patch", "swap",
    ] {
      #expect(try Program.run([verb, "--help"]).code == 0)
    }
  }

  @Test(
    "usage errors are one line and 2",
    arguments: [
      [], ["frobnicate"], ["merge", "--base", "x"], ["inspect", ""], ["quantize"], ["quantize", "x"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--codec", "int3"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--block-size", "63"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--block-size", "many"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--tensor", "q_proj"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--tensor", "zzz=nf4"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--keep", "("], ["quantize", stories, "-o", "/tmp/x.nbl", "--format", "gguf"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--format", "bnb"], ["quantize", stories, "-o", "/tmp/x.nbl", "--frob"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--compress", "gzip"], ["quantize", stories, "-o", "/tmp/x.nbl", "-j", "0"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--encoder", "mse", "--bnb-rules", "cpu"], ["quantize", stories, "-o", ""],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--encoder", "mse-signed", "--bnb-rules", "cuda"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--encoder", "signed"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--max-memory", "1MB"],
      ["dequantize", stories, "-o", "/tmp/x", "--dtype", "int8"],
      ["dequantize", stories, "-o", "/tmp/x.nbl"], ["convert", stories, "-o", "/tmp/x"], ["plan"] + ["--frob"],
      ["quantize", stories, "-o", "/tmp/x.nbl", "--max-shard-size", "big"],
    ] as [[String]])
  func usage(_ arguments: [String]) throws {
    expectOneLine(try Program.run(arguments), 2)
    #expect(!FileManager.default.fileExists(atPath: "/tmp/x.nbl"))
  }

  @Test("bad input is 3", arguments: ["/no/such/file", "org/name", "/dev/null", "/proc/self/mem", "/"])
  func badInput(_ path: String) throws {
    for verb in [["inspect"], ["verify"], ["hash"], ["quantize", "-o", folder.file("o.nbl")]] {
      expectOneLine(try Program.run(verb + [path]), 3, mentioning: [path])
    }
    #expect(folder.contents.isEmpty)
  }

  @Test("a hostile file leaves nothing behind", arguments: ["quantize", "dequantize", "convert"])
  func hostile(_ verb: String) throws {
    let path = try folder.write(
      "bad.safetensors", SafetensorsBuilder.file(header: #"{"t":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}"#))
    let format = verb == "convert" ? ["--format", "bnb"] : []
    expectOneLine(try Program.run([verb, path, "-o", folder.file("out")] + format), 3, mentioning: [path, "'t'"])
    #expect(folder.contents == ["bad.safetensors"])
  }

  @Test("a name with line breaks and terminal codes stays one line")
  func nastyNames() throws {
    let header = #"{"a\nb\u001b[2J\r":{"dtype":"F32","shape":[9],"data_offsets":[0,24]}}"#
    let path = try folder.write("bad.safetensors", SafetensorsBuilder.file(header: header))
    expectOneLine(try Program.run(["inspect", path]), 3)
    var builder = SafetensorsBuilder()
    builder.add("x\ny\u{1B}[31m", [1], [1])
    let good = try Program.run(["inspect", folder.write("odd.safetensors", builder.bytes)])
    #expect(good.code == 0 && !good.output.contains("\u{1B}"))
  }

  @Test("integrity is 4")
  func integrity() throws {
    let path = try quantized()
    var content = try bytes(of: path)
    content[content.count / 2] ^= 4
    try Data(content).write(to: URL(fileURLWithPath: path))
    expectOneLine(try Program.run(["verify", path]), 4, mentioning: [path])
    expectOneLine(try Program.run(["dequantize", path, "-o", folder.file("d")]), 4)
    expectOneLine(try Program.run(["hash", path]), 4)
    #expect(folder.contents == ["s.nbl"])
  }

  @Test("quality gates are 6")
  func quality() throws {
    expectOneLine(
      try Program.run(["quantize", stories, "-o", folder.file("o.nbl"), "--max-error", "0.01"]), 6, mentioning: ["--max-error"])
    var builder = SafetensorsBuilder()
    builder.add("w.weight", [2, 64], [Float](repeating: 1, count: 127) + [.nan])
    let path = try folder.write("nan.safetensors", builder.bytes)
    expectOneLine(try Program.run(["quantize", path, "-o", folder.file("o.nbl")]), 6, mentioning: ["w.weight", " 1 "])
    expectOneLine(try Program.run(["verify", path]), 6, mentioning: ["w.weight"])
    #expect(try Program.run(["quantize", path, "-o", folder.file("o.nbl"), "--allow-nonfinite"]).code == 0)
  }

  @Test("a packed source is not packed with another codec, and what nobody asked for is not warned of")
  func packedSource() throws {
    for (own, other) in [("nf4", "fp4"), ("int8", "nf4"), ("int4", "nf4")] {
      let packed = folder.file(own + ".nbl")
      #expect(try Program.run(["quantize", fixture("models/llama"), "-o", packed, "--codec", own]).code == 0)
      let result = try Program.run(["quantize", packed, "-o", folder.file("o.nbl"), "--codec", other])
      expectOneLine(result, 2, mentioning: ["--codec \(other) packs nothing: 14 tensors are packed as \(own) already", "round twice"])
      let same = try Program.run(["quantize", packed, "-o", folder.file("o.nbl"), "--codec", own, "--force"])
      #expect(same.code == 0 && same.output.hasPrefix("nothing was packed: 14 tensors were packed already"), "\(same.output)")
    }
    #expect(try Program.run(["quantize", fixture("models/llama"), "-o", folder.file("s.nbl"), "--codec", "int4", "--symmetric", "--group-size", "64"]).code == 0)
    let again = ["quantize", folder.file("s.nbl"), "-o", folder.file("ct"), "--format", "compressed-tensors", "--force"]
    let (plain, asked) = (try Program.run(again), try Program.run(again + ["--encoder", "mse"]))
    #expect(plain.code == 0 && plain.errorLines.count == 1 && plain.errors.contains("packed already"), "\(plain.errors)")
    #expect(asked.code == 0 && asked.errors.contains("--encoder mse chooses scales"), "\(asked.errors)")
  }

  @Test("what cannot be written is 7")
  func cannotWrite() throws {
    expectOneLine(try Program.run(["quantize", stories, "-o", folder.file("no/such/o.nbl")]), 7, mentioning: ["no/such"])
    expectOneLine(try Program.run(["quantize", stories, "-o", "/proc/o.nbl"]), 7)
    let full = FileHandle(forWritingAtPath: "/dev/full")
    expectOneLine(try Program.run(["inspect", stories], standardOutput: full), 7)
  }

  @Test("a closed standard output ends quietly")
  func closedPipe() throws {
    let pipe = Pipe()
    try pipe.fileHandleForReading.close()
    let result = try Program.run(["inspect", stories], standardOutput: pipe.fileHandleForWriting)
    #expect(result.code == 0 && result.errors.isEmpty)
  }

  @Test("an existing output stays unless --force")
  func existing() throws {
    let path = try folder.write("o.nbl", "mine")
    expectOneLine(try Program.run(["quantize", stories, "-o", path]), 2, mentioning: ["--force"])
    #expect(try bytes(of: path) == Array("mine".utf8))
    #expect(try Program.run(["quantize", stories, "-o", path, "--force"]).code == 0)
    try folder.write("dir/notes.txt", "mine")
    expectOneLine(try Program.run(["dequantize", path, "-o", folder.file("dir"), "--force"]), 2, mentioning: ["notes.txt"])
    #expect(folder.contents == ["dir", "o.nbl"])
  }

  @Test("an output is never an input")
  func outputIsInput() throws {
    let path = try quantized()
    let before = try bytes(of: path)
    expectOneLine(try Program.run(["convert", path, "-o", path, "--force"]), 2)
    try FileManager.default.createSymbolicLink(atPath: folder.file("link.nbl"), withDestinationPath: path)
    expectOneLine(try Program.run(["convert", path, "-o", folder.file("link.nbl"), "--force"]), 2)
    #expect(try Program.run(["convert", path, "-o", folder.file("b"), "--format", "bnb"]).code == 0)
    expectOneLine(try Program.run(["convert", folder.file("b"), "-o", folder.file("b"), "--format", "bnb", "--force"]), 2)
    expectOneLine(try Program.run(["convert", folder.file("b"), "-o", folder.file("b/"), "--format", "bnb", "--force"]), 2)
    #expect(try bytes(of: path) == before)
  }

  /// Everything below a folder, by path.
  func snapshot(_ folder: String) throws -> [String: [UInt8]] {
    var files: [String: [UInt8]] = [:]
    for name in try FileManager.default.subpathsOfDirectory(atPath: folder) {
      let path = folder + "/" + name
      if (try? FileManager.default.attributesOfItem(atPath: path)[.type] as? FileAttributeType) == .typeRegular {
        files[name] = try bytes(of: path)
      }
    }
    return files
  }

  @Test("a folder that holds an input is never replaced, whatever the input is called")
  func outputHoldsInput() throws {
    for (name, source) in [
      ("one", "models/llama"), ("shards", "models/llama-sharded"), ("hub/models--a--b/snapshots/r1", "models/llama"),
    ] {
      try FileManager.default.createDirectory(
        atPath: (folder.file(name) as NSString).deletingLastPathComponent, withIntermediateDirectories: true)
      try FileManager.default.copyItem(atPath: fixture(source), toPath: folder.file(name))
    }
    try folder.write("linked/config.json", "{}")
    try FileManager.default.createSymbolicLink(
      atPath: folder.file("linked/model.safetensors"), withDestinationPath: folder.file("one/model.safetensors"))
    let before = try snapshot(folder.path)
    for arguments in [
      ["quantize", folder.file("one/model.safetensors"), "-o", folder.file("one"), "--format", "bnb"],
      ["dequantize", folder.file("one/model.safetensors"), "-o", folder.file("one")],
      ["convert", folder.file("one/model.safetensors"), "-o", folder.file("one"), "--format", "safetensors"],
      ["dequantize", folder.file("shards/model-00001-of-00003.safetensors"), "-o", folder.file("shards")],
      ["quantize", folder.file("linked"), "-o", folder.file("one"), "--format", "bnb"],
      ["quantize", "a/b@r1", "-o", folder.file("hub/models--a--b/snapshots/r1"), "--format", "bnb"],
    ] {
      let result = try Program.run(
        arguments + ["--force"], environment: ["HF_HUB_CACHE": folder.file("hub")], folder: folder.path)
      expectOneLine(result, 2)
      #expect(try snapshot(folder.path) == before, "\(arguments)")
    }
  }

  @Test("memory does not grow with the number of shards")
  func shardMemory() throws {
    var builder = SafetensorsBuilder()
    for index in 0..<40 { builder.add("t\(index)", "U8", [1 << 20], [UInt8](repeating: UInt8(index), count: 1 << 20)) }
    let model = try folder.write("m.safetensors", builder.bytes)
    func peak(_ shard: String) throws -> Int {
      let arguments = ["dequantize", model, "-o", folder.file("out"), "--max-shard-size", shard, "--force", "--json", "-j", "1"]
      return try JSON.parse(Program.run(arguments).output)["peak_memory"]?.int ?? 0
    }
    let (one, many) = (try peak("5GB"), try peak("1MB"))
    #expect(one > 0 && many < one + (12 << 20))
  }

  @Test("a plan's bytes bound a folder's", arguments: ["models/llama", "models/gpt2", "models/llama-bnb-nf4-dq"])
  func folderPlans(_ model: String) throws {
    let source = fixture(model)
    for arguments in [
      ["quantize", source, "--format", "bnb"], ["convert", source, "--format", "bnb"],
      ["dequantize", source, "--max-shard-size", "100kB"],
    ] {
      let plan = try JSON.parse(Program.run(["plan"] + arguments + ["--json"]).output)
      let report = try JSON.parse(Program.run(arguments + ["-o", folder.file("out"), "--force", "--json"]).output)
      let written = try snapshot(folder.file("out")).values.reduce(0) { $0 + $1.count }
      #expect(report["bytes_out"]?.int == written)
      let predicted = try #require(plan["bytes_out"]?.int)
      #expect(
        plan["bytes_out_exact"]?.bool == true ? predicted == written : predicted >= written,
        "\(arguments) \(predicted) \(written)")
      #expect(Double(predicted) < 1.02 * Double(written))
    }
  }

  @Test(
    "configurations with values of the wrong type",
    arguments: [
      #"{"model_type":5}"#, #"{"model_type":["gpt2"]}"#, #"{"quantization_config":[]}"#,
      #"{"quantization_config":{"quant_method":4}}"#,
      #"{"tie_word_embeddings":"yes"}"#,
    ])
  func wrongTypes(_ config: String) throws {
    try folder.write("m/config.json", config)
    try folder.write("m/model.safetensors", bytes(of: stories + "/model.safetensors"))
    expectOneLine(try Program.run(["inspect", folder.file("m")]), 3, mentioning: ["config.json"])
  }

  @Test("switches in a configuration file take no other word")
  func switches() throws {
    let yaml = try folder.write("run.yaml", "force: yes\ndouble-quant: no\n")
    let path = try folder.write("o.nbl", "old")
    #expect(try Program.run(["quantize", "--config", yaml, "-o", path, stories]).code == 0)
    let bad = try folder.write("bad.yaml", "block-size: true\n")
    expectOneLine(try Program.run(["quantize", "--config", bad, "-o", path, stories]), 2, mentioning: ["block-size"])
  }

  @Test("endings that nibble does not write", arguments: ["o.bin", "o.pt", "o.json"])
  func endings(_ name: String) throws {
    expectOneLine(try Program.run(["quantize", stories, "-o", folder.file(name)]), 2, mentioning: [name])
  }

  @Test("--dry-run and plan write nothing and say what would be")
  func plans() throws {
    let plan = try JSON.parse(Program.run(["plan", "quantize", stories, "--json"]).output)
    let dry = try JSON.parse(Program.run(["quantize", stories, "-o", folder.file("o.nbl"), "--dry-run", "--json"]).output)
    #expect(folder.contents.isEmpty)
    let report = try JSON.parse(Program.run(["quantize", stories, "-o", folder.file("o.nbl"), "--json"]).output)
    #expect(plan["bytes_out"]?.int == report["bytes_out"]?.int)
    #expect(dry["bytes_out"]?.int == report["bytes_out"]?.int)
    #expect(plan["bytes_out_exact"]?.bool == true)
    #expect(report["bytes_out"]?.int == (try bytes(of: folder.file("o.nbl")).count))
  }

  @Test("every verb has a JSON document")
  func json() throws {
    let path = try quantized()
    for arguments in [
      ["inspect", path], ["inspect", path, "--stats"], ["verify", path], ["hash", path], ["diff", stories, path],
      ["plan", stories], ["plan", "dequantize", path], ["plan", "convert", path, "--format", "bnb"],
      ["dequantize", path, "-o", folder.file("d")], ["convert", path, "-o", folder.file("b"), "--format", "bnb"],
      ["quantize", stories, "-o", folder.file("q.nbl")],
    ] {
      let result = try Program.run(arguments + ["--json"])
      #expect(result.code == 0, "\(arguments) \(result.errors)")
      #expect(try JSON.parse(result.output).members != nil, "\(arguments)")
    }
    let diff = try JSON.parse(Program.run(["diff", stories, path, "--json"]).output)
    let first = try #require(diff["changed"]?.array?.first)
    for key in ["name", "relative_rms", "max_error", "sqnr_db"] { #expect(first[key] != nil, "\(key)") }
  }

  @Test("rules: the order of the command line decides, across both flags and from files")
  func rules() throws {
    let file = try folder.write("rules.txt", "# heads\nlayers.0.*q_proj=fp4\n\n")
    func codecs(_ arguments: [String]) throws -> [String: String] {
      let result = try Program.run(["plan", stories, "--json"] + arguments)
      #expect(result.code == 0, "\(result.errors)")
      let tensors = try JSON.parse(result.output)["tensors"]?.array ?? []
      return Dictionary(uniqueKeysWithValues: tensors.map { ($0["name"]?.string ?? "", $0["to"]?.string ?? "") })
    }
    let name = "model.layers.0.self_attn.q_proj.weight"
    #expect(try codecs(["--tensor", "q_proj=fp4", "--keep", "layers.0"])[name]?.hasPrefix("fp4") == true)
    #expect(try codecs(["--keep", "layers.0", "--tensor", "q_proj=fp4"])[name] == "F32")
    #expect(try codecs(["--tensor", "@" + file, "--keep", "layers.0"])[name]?.hasPrefix("fp4") == true)
    #expect(try codecs(["--keep", "layers.0", "--tensor", "@" + file])[name] == "F32")
    #expect(try codecs(["--tensor=embed=nf4:block=128"])["model.embed_tokens.weight"] == "nf4, block 128, double quantized (F32)")
  }

  @Test("int4 takes groups and zeros, runs, merges, and is refused where it has no place")
  func groups() throws {
    let base = fixture("models/llama"), packed = folder.file("g.nbl")
    for (flags, summary) in [
      ([], "int4, groups of 64, zero points of float16"), (["--symmetric", "--group-size", "32"], "int4, groups of 32, symmetric"),
      (["--zeros", "int", "--group-size", "row"], "int4, one group per row, zero points of int"),
      (["--zeros", "float", "--encoder", "mse"], "int4, groups of 64, zero points of float16"),
      (["--codec", "nf4", "--tensor", "q_proj=int4:group=32"], "int4, groups of 32, zero points of float16"),
    ] {
      let codec = flags.contains("--codec") ? [] : ["--codec", "int4"]
      #expect(try Program.run(["quantize", base, "-o", packed, "--force"] + codec + flags).code == 0, "\(flags)")
      let tensors = try JSON.parse(Program.run(["inspect", packed, "--json"]).output)["tensors"]?.array ?? []
      let found = try #require(tensors.first { $0["name"]?.string?.hasSuffix("0.self_attn.q_proj.weight") == true })
      let listing = try Program.run(["inspect", packed, "-v"]).output
      #expect(found["codec"]?.string == "int4" && listing.contains(summary), "\(flags)")
      #expect(try Program.run(["verify", packed]).code == 0)
    }
    #expect(
      try Program.run(["merge", packed, fixture("adapters/dec_lora_qv"), "-o", folder.file("m.nbl"), "--min-survival", "0"]).code
        == 0)
    #expect(try Program.run(["verify", folder.file("m.nbl")]).code == 0)
    for (flags, word) in [
      (["--codec", "int4", "--group-size", "48"], "--group-size 48 is not one of"),
      (["--codec", "int4", "--zeros", "none"], "--zeros"),
      (["--tensor", "q_proj=int4:block=64"], "int4 has no block size"),
      (["--tensor", "q_proj=nf4:group=64"], "nf4 has no group size"),
      (["--codec", "int4", "--group-size", "256"], "--group-size"),
      (["--codec", "int4", "--format", "bnb"], "int4, which bitsandbytes has no place for"),
      (["--codec", "nf4", "--group-size", "64"], "--group-size is for int4"), (["--codec", "int4", "--block-size", "128"], "--block-size is for nf4"),
      (["--codec", "int4", "--symmetric", "--zeros", "int"], "--symmetric stores no zero points"),
      (["--codec", "nf4", "--encoder", "gptq"], "--encoder gptq chooses codes of int4"),
      (["--codec", "int8", "--encoder", "calibrated"], "nf4, fp4, int4 and nf4-tiles"),
    ] {
      let output = flags.contains("bnb") ? folder.file("bnb") : packed
      let result = try Program.run(["quantize", base, "-o", output, "--force"] + flags)
      expectOneLine(result, 2)
      #expect(result.errors.contains(word), "\(result.errors)")
    }
  }

  @Test("flags in snake_case, and from a file that flags win over")
  func configuration() throws {
    let yaml = try folder.write("run.yaml", "codec: fp4\nblock_size: 128\ndouble_quant: false\nkeep: [q_proj, k_proj]\n")
    let path = folder.file("o.nbl")
    let result = try Program.run(["quantize", stories, "--config", yaml, "--block_size", "32", "-o", path, "--json"])
    #expect(result.code == 0, "\(result.errors)")
    let tensors = try JSON.parse(result.output)["tensors"]?.array ?? []
    #expect(tensors.count == 25)
    #expect(
      tensors.allSatisfy { $0["codec"]?.string == "fp4" && $0["block_size"]?.int == 32 && $0["double_quant"]?.bool == false })
    expectOneLine(
      try Program.run(["quantize", stories, "--config", folder.write("bad.yaml", "frob: 1\n"), "-o", path, "--force"]), 2)
    expectOneLine(
      try Program.run(["quantize", stories, "--config", folder.write("worse.yaml", "a: [\n"), "-o", path, "--force"]), 2)
    expectOneLine(try Program.run(["quantize", stories, "--config", folder.file("none.yaml"), "-o", path, "--force"]), 3)
  }

  @Test("a model of the Hugging Face cache by its name")
  func cache() throws {
    let hub = folder.file("hub")
    let snapshot = "hub/models--org--tiny/snapshots/abc4567890"
    for name in ["config.json", "model.safetensors"] { try folder.write(snapshot + "/" + name, bytes(of: stories + "/" + name)) }
    try folder.write("hub/models--org--tiny/refs/main", "abc4567890")
    try folder.write("hub/models--org--tiny/refs/feature/long+größer", "abc4567890\n")
    try folder.write("hub/models--org--tiny/refs/empty", "")
    try folder.write("hub/models--org--tiny/refs/elsewhere", "../../models--org--tiny/snapshots/abc4567890")
    for (name, code) in [
      ("org/tiny", Int32(0)), ("org/tiny@main", 0), ("org/tiny@abc4567890", 0), ("org/tiny@abc4567", 0), ("org/tiny@abc", 3),
      ("org/tiny@feature/long+größer", 0), ("org/tiny@feature", 3), ("org/tiny@empty", 3), ("org/tiny@elsewhere", 3),
      ("org/tiny@other", 3), ("org/none", 3), ("org/tiny@../x", 3),
    ] {
      #expect(try Program.run(["hash", name], environment: ["HF_HUB_CACHE": hub], folder: folder.path).code == code, "\(name)")
    }
  }

  @Test(
    "a version with details says which kernels were chosen and why",
    arguments: [["--version", "-v"], ["--verbose", "--version"]])
  func details(_ arguments: [String]) throws {
    let best = try Program.run(arguments, environment: ["NIBBLE_KERNELS": "none"])
    #expect(best.code == 0 && best.output.hasPrefix("nibble "), "\(best.errors)")
    #expect(
      best.output.contains("NIBBLE_KERNELS=none does not run here; ") && best.output.contains("\nOpenBLAS "), "\(best.output)")
    let forced = try Program.run(arguments, environment: ["NIBBLE_KERNELS": "portable"])
    #expect(forced.output.contains("portable: NIBBLE_KERNELS asks for them"), "\(forced.output)")
  }

  @Test("forced kernels write the same file", arguments: ["portable", "avx2", "avx512", "avx512bf16", "neon"])
  func kernels(_ variant: String) throws {
    let path = try quantized()
    let other = folder.file("o.nbl")
    #expect(try Program.run(["quantize", stories, "-o", other], environment: ["NIBBLE_KERNELS": variant]).code == 0)
    #expect(try bytes(of: path) == bytes(of: other))
  }
}
