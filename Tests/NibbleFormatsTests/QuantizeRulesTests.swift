import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("What is packed")
struct QuantizeRulesTests {
  let bench = Bench()

  func decide(_ names: [(String, [Int])], config: String? = nil, _ rules: [PackingRule] = []) throws -> [String: PackingDecision]
  {
    var builder = SafetensorsBuilder()
    for (name, shape) in names { builder.add(random: name, shape) }
    let source: String
    if let config {
      try bench.folder.write("m/config.json", config)
      try bench.folder.write("m/model.safetensors", builder.bytes)
      source = bench.folder.file("m")
    } else {
      source = try bench.folder.write("m.safetensors", builder.bytes)
    }
    var options = QuantizeOptions()
    options.rules = rules
    let decisions = try StreamJob.decide(Checkpoint.open(source), options)
    return Dictionary(uniqueKeysWithValues: decisions.map { ($0.tensor.name.text, $0) })
  }

  @Test("a rule for a tied head is refused with the tensor that holds its weight")
  func tiedHead() throws {
    let names = [("model.embed_tokens.weight", [8, 8]), ("model.layers.0.mlp.down_proj.weight", [8, 8])]
    let config = #"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "tie_word_embeddings": true}"#
    let error = #expect(throws: NibbleError.self) { try decide(names, config: config, [PackingRule("lm_head=bf16")]) }
    #expect(error?.kind == .usage && error?.message.contains("ties 'lm_head.weight' to 'model.embed_tokens.weight'") == true)
    #expect(try decide(names, config: config, [PackingRule("embed=bf16")])["model.embed_tokens.weight"]?.choice == .cast(.bf16))
  }

  @Test("known architectures: linear layers, not embeddings, heads, norms, biases")
  func llama() throws {
    let found = try decide(
      [
        ("model.embed_tokens.weight", [8, 8]), ("model.layers.0.self_attn.q_proj.weight", [8, 8]),
        ("model.layers.0.self_attn.q_proj.bias", [8]), ("model.layers.0.input_layernorm.weight", [8]),
        ("model.layers.11.mlp.down_proj.weight", [8, 8]), ("lm_head.weight", [8, 8]), ("strange.weight", [8, 8]),
      ], config: #"{"model_type":"qwen2"}"#)
    #expect(
      found.filter { $0.value.choice != .keep }.keys.sorted() == [
        "model.layers.0.self_attn.q_proj.weight", "model.layers.11.mlp.down_proj.weight",
      ])
  }

  @Test("experts are packed one by one, and routers kept")
  func experts() throws {
    let names = ["block_sparse_moe.gate", "block_sparse_moe.experts.0.w1", "block_sparse_moe.experts.10.w2", "self_attn.q_proj"]
    let found = try decide(names.map { ("model.layers.0.\($0).weight", [8, 8]) }, config: #"{"model_type":"mixtral"}"#)
    #expect(
      found.filter { $0.value.choice != .keep }.keys.sorted()
        == names.dropFirst().map { "model.layers.0.\($0).weight" }.sorted())
  }

  @Test("heads with a bias are packed, as transformers has it; without one kept", arguments: [true, false])
  func heads(_ hasBias: Bool) throws {
    var names: [(String, [Int])] = [
      ("roberta.encoder.layer.0.output.dense.weight", [8, 8]), ("classifier.out_proj.weight", [3, 8]),
    ]
    if hasBias { names.append(("classifier.out_proj.bias", [3])) }
    let found = try decide(names, config: #"{"model_type":"roberta"}"#)
    #expect((found["classifier.out_proj.weight"]?.choice != .keep) == hasBias)
    #expect(found["roberta.encoder.layer.0.output.dense.weight"]?.choice != .keep)
  }

  @Test(
    "unknown architectures: 2-D weights but embeddings and heads by name; 3-D ones kept",
    arguments: [nil, #"{"model_type":"marvel"}"#])
  func unknown(_ config: String?) throws {
    let found = try decide(
      [
        ("tok_embeddings.weight", [8, 8]), ("transformer.wte.weight", [8, 8]), ("lm_head.weight", [8, 8]),
        ("a.b.fc.weight", [8, 8]),
        ("a.norm.weight", [8]), ("a.fc.bias", [8]), ("experts.weight", [2, 8, 8]), ("conv.weight", [2, 2, 3, 3]),
        ("a.thing", [8, 8]),
      ], config: config)
    #expect(found.filter { $0.value.choice != .keep }.keys.sorted() == ["a.b.fc.weight"])
    #expect(found["experts.weight"]?.reason == .stacked)
  }

  @Test(
    "a bitsandbytes folder packs no layer that transformers does not replace; a rule that asks for one is warned about",
    arguments: [
      // An entry of llm_int8_skip_modules stands for every module whose name it ends.
      ("squeezebert", ["transformer.layer.0.ffn.lin1"], ["pre_classifier", "classifier", "embeddings.x"]),
      // Whatever is kept has an entry, and may cover more.
      ("marvel", ["a.fc"], ["classifier", "a.pre_classifier", "b.a.pre_classifier", "classifier.dense"]),
      ("falcon", [], ["transformer.h.0.self_attention.query_key_value", "transformer.h.0.mlp.dense_h_to_4h", "lm_head"]),
      ("umt5", ["encoder.block.0.layer.1.DenseReluDense.wi"], ["encoder.block.0.layer.1.DenseReluDense.wo", "shared"]),
    ])
  func notReplaced(_ type: String, _ packed: [String], _ kept: [String]) throws {
    var builder = SafetensorsBuilder()
    for name in packed + kept { builder.add(random: name + ".weight", [8, 64]) }
    try bench.folder.write("m/config.json", #"{"model_type": "\#(type)"}"#)
    try bench.folder.write("m/model.safetensors", builder.bytes)
    let source = try Checkpoint.open(bench.folder.file("m"))
    func run(_ format: OutputFormat, _ rules: [PackingRule] = []) throws -> StreamReport {
      var options = QuantizeOptions()
      options.rules = rules
      var spec = try OutputSpec(path: bench.folder.file("out-\(format)"), format: format, default: .nbl)
      spec.force = true
      return try StreamJob.quantize(source, options, to: spec).run()
    }
    let report = try run(.bnb)
    #expect(report.packed.map(\.name).sorted() == packed.map { $0 + ".weight" }.sorted())
    #expect(report.warnings.contains { $0.message.contains("transformers does not load them packed") })
    #expect(!report.warnings.contains { $0.message.contains("does not load the folder") })
    if !packed.isEmpty {
      // As transformers reads it: nibble itself goes by the configuration that was.
      let config = try JSON.parse(bytes(of: bench.folder.file("out-bnb/config.json")))
      let list = config["quantization_config"]?["llm_int8_skip_modules"]?.array
      let listed = Set((list ?? []).compactMap(\.string))
      #expect(listed.isSuperset(of: kept))
    }
    let forced = kept[type == "marvel" ? 1 : 0]
    let rule = try PackingRule("^" + forced.replacing(".", with: "\\.") + "\\.weight$=nf4")
    #expect(
      try run(.bnb, [rule]).warnings.contains { $0.message.contains("does not load the folder") && $0.message.contains(forced) })
    #expect(try run(.nbl).packed.count > packed.count)
  }

  @Test("rules for vectors: codes of matrices are refused by name, blocks that no model runs are warned of", arguments: ["int4", "int4:group=32", "int8", "nf4"])
  func vectors(choice: String) throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "model.layers.0.self_attn.q_proj.weight", [64, 64])
    builder.add(random: "model.layers.0.self_attn.q_proj.bias", [64])
    try bench.folder.write("m/config.json", #"{"model_type":"qwen2"}"#)
    try bench.folder.write("m/model.safetensors", builder.bytes)
    var options = QuantizeOptions()
    options.rules = [try PackingRule("q_proj=\(choice)")]
    let source = try Checkpoint.open(bench.folder.file("m")), output = try OutputSpec(path: bench.folder.file("o.nbl"), format: nil, default: .nbl)
    guard choice == "nf4" else {
      let error = #expect(throws: NibbleError.self) { try StreamJob.quantize(source, options, to: output) }
      #expect(error?.kind == .usage && error?.message.contains("q_proj.bias' cannot become") == true)
      return
    }
    #expect(try StreamJob.quantize(source, options, to: output).warnings.contains { $0.message.contains("1 vectors are packed") })
  }

  @Test("rules: the first that is found decides")
  func rules() throws {
    let names: [(String, [Int])] = [("a.weight", [8, 8]), ("b.weight", [8, 8]), ("c.bias", [8])]
    let found = try decide(
      names,
      [
        try PackingRule("^a=fp4:block=128"), try PackingRule(keeping: "weight"), try PackingRule(".*=bf16"),
      ])
    #expect(found["a.weight"]?.choice == .packed(.fp4))
    #expect(found["a.weight"]?.blockSize == 128)
    #expect(found["b.weight"]?.choice == .keep)
    #expect(found["c.bias"]?.choice == .cast(.bf16))
  }

  @Test("a rule that matches nothing is an error")
  func unmatched() throws {
    let error = #expect(throws: NibbleError.self) {
      _ = try decide([("a.weight", [8, 8])], [try PackingRule("q_proj=nf4")])
    }
    #expect(error?.kind == .usage)
    #expect(error?.message.contains("q_proj") == true)
  }

  @Test("rules that are none", arguments: ["", "x", "x=int3", "=", "x=nf4:block=7", "x=nf4:blok=64", "x=keep:block=64", "(=nf4"])
  func badRules(_ text: String) { #expect(throws: NibbleError.self) { try PackingRule(text) } }

  @Test("the pattern may contain '='")
  func equals() throws {
    let rule = try PackingRule("(?=a)a=nf4")
    #expect(rule.pattern.text == "(?=a)a")
  }

  @Test("values that are not finite stop the job, with tensor and count")
  func nonfinite() throws {
    var builder = SafetensorsBuilder()
    var values = [Float](repeating: 0.5, count: 6400)
    values[7] = .nan
    values[5000] = -.infinity
    builder.add("bad.weight", [100, 64], values)
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    let error = #expect(throws: NibbleError.self) { try bench.quantize(source, "a.nbl") }
    #expect(error?.kind == .quality)
    #expect(error?.message.contains("bad.weight") == true && error?.message.contains(" 2 ") == true)
    #expect(bench.folder.contents == ["m.safetensors"])
  }

  @Test(
    "allowed, they are counted, and the error is that of the other blocks", arguments: StreamJob.Encoder.allCases,
    EncodingRules.allCases)
  func allowedNonfinite(_ encoder: StreamJob.Encoder, _ rules: EncodingRules) throws {
    if encoder != .absmax, rules != .nearest { return }
    var builder = SafetensorsBuilder()
    var generator = Generator(4)
    var values = (0..<6400).map { _ in generator.normal() }
    values[7] = .nan
    values[5000] = .infinity
    builder.add("w.weight", [100, 64], values)
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    var options = QuantizeOptions()
    options.encoder = encoder
    options.bnbRules = rules
    options.doubleQuant = false
    var job = try StreamJob.quantize(Checkpoint.open(source), options, to: bench.spec("a.nbl"))
    job.allowsNonfinite = true
    let report = try job.run()
    #expect(report.nonfinite == 2)
    #expect(try #require(report.meanError) > 0.08 && (try #require(report.meanError)) < 0.1)
  }

  @Test("an encoder that no tensor is packed with is warned of", arguments: [CodecChoice.int8, .keep])
  func idleEncoder(_ codec: CodecChoice) throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "w.weight", [16, 64])
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    func warns(_ codec: CodecChoice) throws -> Bool {
      var options = QuantizeOptions()
      (options.codec, options.encoder) = (codec, .mse)
      return try StreamJob.quantize(Checkpoint.open(source), options, to: bench.spec("a.nbl")).warnings.contains {
        $0.message.contains("encoder mse")
      }
    }
    #expect(try warns(codec) && !warns(.packed(.nf4)))
  }

  @Test("a value that is not finite takes its group or row along: both counts are reported", arguments: [(CodecChoice.codec(.int4), 64), (.int8, 128)])
  func lostNeighbours(_ codec: CodecChoice, _ lost: Int) throws {
    var builder = SafetensorsBuilder()
    builder.add("w.weight", [4, 128], (0..<512).map { $0 == 70 ? .nan : Float($0 % 7) })
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    var options = QuantizeOptions()
    options.codec = codec
    var job = try StreamJob.quantize(Checkpoint.open(source), options, to: bench.spec("a.nbl"))
    let error = #expect(throws: NibbleError.self) { try job.run() }
    #expect(error?.message.contains(" \(lost) values in ") == true && error?.message.contains("(1 NaN or infinite in the source)") == true, "\(error?.message ?? "")")
    job.allowsNonfinite = true
    let report = try job.run()
    #expect(report.nonfinite == lost && report.finiteLost == lost - 1)
  }

  @Test("groups too small for float16 scales are counted and warned of, those of zeros are not", arguments: [true, false])
  func smallGroups(_ isSymmetric: Bool) throws {
    // A group each: ordinary, with a subnormal scale, with a scale of zero, of zeros.
    let magnitudes: [Float] = [1, 1e-4, 1e-8, 0]
    var builder = SafetensorsBuilder()
    builder.add("w.weight", [4, 64], (0..<256).map { magnitudes[$0 / 64] * Float($0 % 5 - 2) })
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    var options = QuantizeOptions()
    options.codec = .codec(.int4)
    if isSymmetric { options.zeros = .none }
    let report = try StreamJob.quantize(Checkpoint.open(source), options, to: bench.spec("a.nbl")).run()
    #expect(report.underflow.vanished == 1 && report.underflow.subnormal == 1 && report.zeroBlocks == 1, "\(report.underflow)")
    let warning = report.warnings.first { $0.message.contains("16-bit scales") }?.message
    #expect(warning?.contains("2 groups") == true && warning?.contains("'w.weight': 1 become zeros, 1 lose precision") == true, "\(report.warnings)")
  }

  @Test("kept tensors are looked at too")
  func nonfiniteKept() throws {
    var builder = SafetensorsBuilder()
    builder.add("norm.weight", [4], [1, .nan, 1, 1])
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    #expect(throws: NibbleError.self) { try bench.quantize(source, "a.nbl") }
  }

  @Test("blocks of zeros are counted and decode to zero", arguments: EncodingRules.allCases)
  func zeros(_ rules: EncodingRules) throws {
    var builder = SafetensorsBuilder()
    var values = (0..<6400).map { Float($0 % 13) - 6 }
    for index in 640..<1280 { values[index] = 0 }
    builder.add("w.weight", [100, 64], values)
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    let report = try bench.quantize(source, "a.nbl") { $0.bnbRules = rules }
    #expect(report.zeroBlocks == 10)
    try bench.dequantize(bench.folder.file("a.nbl"), "out.safetensors", .f32)
    let back = try SmallSafetensors(bench.folder.file("out.safetensors")).floats("w.weight")
    // The CUDA rule gives such blocks code 0, and double quantization a scale that is not quite 0.
    if rules != .cuda { #expect(back[640..<1280].allSatisfy { $0 == 0 }) }
  }

  @Test("integers, empty tensors and 64-bit floats")
  func oddTypes() throws {
    var builder = SafetensorsBuilder()
    builder.add("i.weight", "I32", [2, 2], [UInt8](repeating: 1, count: 16))
    builder.add("e.weight", [0, 5], [])
    builder.add("d.weight", "F64", [2, 32], (0..<64).flatMap { littleEndian(Double($0).bitPattern) })
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    let report = try bench.quantize(source, "a.nbl")
    #expect(report.packed.map(\.name) == ["d.weight"])
    #expect(report.warnings.contains { $0.message.contains("F64") })
    let checkpoint = try Checkpoint.open(bench.folder.file("a.nbl"))
    #expect(checkpoint.tensor("d.weight")?.dtype == .f32)
    for rule in ["^i=nf4", "^e=nf4", "^i=bf16"] {
      #expect(throws: NibbleError.self) { try bench.quantize(source, "b.nbl") { $0.rules = [try PackingRule(rule)] } }
    }
  }

  @Test("rounding float64 to float32 is not free, and is said")
  func wideCast() throws {
    var builder = SafetensorsBuilder()
    builder.add("d", "F64", [64], (0..<64).flatMap { littleEndian((1 / (Double($0) + 3)).bitPattern) })
    let source = try bench.folder.write("m.safetensors", builder.bytes)
    let report = try bench.quantize(source, "a.nbl") { $0.rules = [try PackingRule("d=fp32")] }
    let error = try #require(report.cast.first?.relativeError)
    #expect(error > 1e-9 && error < 6e-8)
  }

  @Test("what is packed already is kept, and not packed twice")
  func twice() throws {
    try bench.quantize(fixture("stories260K"), "a.nbl")
    let again = try bench.quantize(bench.folder.file("a.nbl"), "b.nbl")
    #expect(again.packed.count == 35)
    #expect(throws: NibbleError.self) {
      try bench.quantize(bench.folder.file("a.nbl"), "c.nbl") { $0.rules = [try PackingRule("q_proj=fp4")] }
    }
  }

  @Test("checkpoints quantized in ways nibble does not read are refused by name", arguments: ["gptq", "awq", "fp8"])
  func otherMethods(_ method: String) throws {
    #expect(throws: NibbleError.self) {
      _ = try decide([("a.weight", [8, 8])], config: #"{"quantization_config":{"quant_method":"\#(method)"}}"#)
      _ = try StreamJob.quantize(Checkpoint.open(bench.folder.file("m")), QuantizeOptions(), to: bench.spec("o.nbl"))
    }
  }

  @Test("output formats go by flag, then ending, then default")
  func formats() throws {
    #expect(try OutputSpec(path: "x.nbl", format: nil, default: .bnb).format == .nbl)
    #expect(try OutputSpec(path: "x.safetensors", format: nil, default: .bnb).format == .bnb)
    #expect(try OutputSpec(path: "x", format: nil, default: .bnb).format == .bnb)
    #expect(try OutputSpec(path: "x", format: .nbl, default: .bnb).format == .nbl)
    #expect(throws: NibbleError.self) { try OutputSpec(path: "x.nbl", format: .bnb, default: .bnb) }
    #expect(throws: NibbleError.self) { try OutputSpec(path: "x.safetensors", format: .nbl, default: .nbl) }
  }
}
