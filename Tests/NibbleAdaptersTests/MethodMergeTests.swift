import Foundation
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Merges of every method that folds into a weight")
struct MethodMergeTests {
  let folder = TemporaryFolder()
  let golden: TensorFile

  init() throws { golden = try TensorFile(fixture("methods.safetensors")) }

  func floats(_ name: String) throws -> (shape: [Int], values: [Float]) {
    let tensor = try #require(golden.tensor(name), "\(name)")
    return (tensor.shape, try golden.floats(tensor))
  }

  /// A base of one weight.
  func base(_ golden: String, as name: String) throws -> Checkpoint {
    let (shape, values) = try floats(golden)
    var builder = SafetensorsBuilder()
    builder.add(name + ".weight", shape, values)
    return try Checkpoint.open(folder.write("base.safetensors", builder.bytes))
  }

  func adapter(_ tensors: [(name: String, golden: String)], _ config: String) throws -> AdapterFile {
    var builder = SafetensorsBuilder()
    for (name, golden) in tensors {
      let (shape, values) = try floats(golden)
      builder.add("base_model.model." + name, shape, values)
    }
    _ = try folder.write("adapter/adapter_model.safetensors", builder.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", \#(config)}"#)
    return try AdapterFile.open(folder.file("adapter"))
  }

  func merged(_ base: Checkpoint, _ adapter: AdapterFile, to name: String = "out.safetensors", _ rules: EncodingRules = .nearest)
    throws
    -> Checkpoint
  {
    var spec = try OutputSpec(path: folder.file(name), format: nil, default: .safetensors)
    spec.force = true
    var options = MergeOptions([.init(adapter)])
    options.minimumSurvival = 0
    options.packing.bnbRules = rules
    _ = try StreamJob.merge(base, options, to: spec).run()
    return try Checkpoint.open(spec.path)
  }

  func expect(_ found: StoredTensor, _ golden: String) throws {
    let expected = try floats(golden)
    #expect(found.shape == expected.shape)
    for (x, y) in zip(try values(found), expected.values) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y)) }
  }

  @Test(
    "LoRA on linear layers, Conv1D, convolutions and embeddings, DoRA, and what IEC and Q-BaRA fold into",
    arguments: [
      ("lora_linear", #""r": 4, "lora_alpha": 8"#), ("lora_conv1d_gpt2", #""r": 4, "lora_alpha": 32, "fan_in_fan_out": true"#),
      ("lora_conv2d", #""r": 2, "lora_alpha": 2.2857142857142856"#), ("lora_embedding", #""r": 3, "lora_alpha": 6"#),
      ("dora", #""r": 4, "lora_alpha": 8, "use_dora": true"#), ("iec", #""r": 4, "lora_alpha": 1"#),
      ("q_bara", #""r": 6, "lora_alpha": 12"#),
    ])
  func folds(_ method: String, _ config: String) throws {
    let isEmbedding = method == "lora_embedding", isPlain = ["iec", "q_bara"].contains(method)
    var tensors = [
      (
        isEmbedding ? "layer.lora_embedding_A" : "layer.lora_A.weight",
        isPlain ? "A_plain" : isEmbedding ? "lora_embedding_A" : "lora_A"
      ),
      (
        isEmbedding ? "layer.lora_embedding_B" : "layer.lora_B.weight",
        isPlain ? "B_plain" : isEmbedding ? "lora_embedding_B" : "lora_B"
      ),
    ]
    if method == "dora" { tensors.append(("layer.lora_magnitude_vector", "lora_magnitude_vector")) }
    let file = try adapter(tensors.map { ($0.0, "\(method)/\($0.1)") }, config)
    let weight = isEmbedding ? "E" : "W"
    try expect(merged(base("\(method)/\(weight)", as: "layer"), file).tensors[0], "\(method)/\(weight)_merged")
  }

  @Test("LoRA on the 4-bit form of a weight: exact in float, code for code in 4 bits")
  func quantized() throws {
    let file = try adapter(
      [("layer.lora_A.weight", "qlora/lora_A"), ("layer.lora_B.weight", "qlora/lora_B")], #""r": 8, "lora_alpha": 16"#)
    let plain = try base("qlora/W16", as: "layer")
    let packed = try plain.packedForm(QuantizeOptions(trainedOn: "nf4"), beside: folder.file("x"), threads: 1)
    func codes(_ checkpoint: Checkpoint) throws -> [UInt8] {
      guard case .file(let file, let offset)? = checkpoint.tensors[0].section(.codes)?.source else { return [] }
      return try file.bytes(at: offset, count: checkpoint.tensors[0].count / 2)
    }
    func expected(_ name: String) throws -> [UInt8] {
      try golden.integers(#require(golden.tensor("qlora/" + name))).map { UInt8($0) }
    }
    try expect(packed.tensors[0], "qlora/W_dequant")
    try expect(merged(packed, file).tensors[0], "qlora/W_merged")
    #expect(try codes(packed) == expected("packed"))
    #expect(try codes(merged(packed, file, to: "a.nbl")) == expected("packed_requant"))
    #expect(try codes(merged(plain, file, to: "b.nbl")) == expected("packed_from_float_base"))
  }

  @Test("DoRA onto a 4-bit base takes the norms of that base")
  func doraOnCodes() throws {
    let file = try adapter(
      [
        ("layer.lora_A.weight", "dora/lora_A"), ("layer.lora_B.weight", "dora/lora_B"),
        ("layer.lora_magnitude_vector", "dora/lora_magnitude_vector"),
      ], #""r": 4, "lora_alpha": 8, "use_dora": true"#)
    let packed = try base("dora/W", as: "layer").packedForm(
      QuantizeOptions(trainedOn: "nf4"), beside: folder.file("x"), threads: 1)
    try expect(merged(packed, file).tensors[0], "dora/W_merged_nf4")
  }

  @Test("ranks and alphas by pattern")
  func patterns() throws {
    var model = SafetensorsBuilder(), factors = SafetensorsBuilder()
    for tensor in try Checkpoint.open(fixture("methods.safetensors")).tensors {
      guard let name = tensor.name.text.split(separator: "/", maxSplits: 1).last.map(String.init),
        tensor.name.text.hasPrefix("adapter_model/")
      else { continue }
      if name.hasPrefix("base/") { model.add(String(name.dropFirst(5)), tensor.shape, try values(tensor)) }
      if name.hasPrefix("base_model.") { factors.add(name, tensor.shape, try values(tensor)) }
    }
    _ = try folder.write("adapter/adapter_model.safetensors", factors.bytes)
    _ = try folder.write(
      "adapter/adapter_config.json",
      #"""
      {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"],
       "alpha_pattern": {".*\\.mlp\\.down_proj": 6},
       "rank_pattern": {".*\\.mlp\\.down_proj": 2, "model\\.layers\\.1\\.self_attn\\.q_proj": 6}}
      """#)
    let base = try Checkpoint.open(folder.write("base.safetensors", model.bytes))
    let out = try merged(base, AdapterFile.open(folder.file("adapter")))
    #expect(out.tensors.count == 6)
    for tensor in out.tensors { try expect(tensor, "adapter_model/merged/" + tensor.name.text) }
  }

  @Test(
    "round once: half a unit in the last place from the exact sum, and what float32 loses", arguments: [DType.f32, .bf16, .f16])
  func roundedOnce(_ dtype: DType) throws {
    var random = Generator(5)
    let (rows, columns, rank) = (96, 160, 24)
    let w = (0..<rows * columns).map { _ in 0.05 * random.normal() }
    let a = (0..<rank * columns).map { _ in random.normal() }, b = (0..<rows * rank).map { _ in 0.01 * random.normal() }
    var model = SafetensorsBuilder(), factors = SafetensorsBuilder()
    model.add("layer.weight", [rows, columns], w)
    factors.add("base_model.model.layer.lora_A.weight", [rank, columns], a)
    factors.add("base_model.model.layer.lora_B.weight", [rows, rank], b)
    _ = try folder.write("adapter/adapter_model.safetensors", factors.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": 36}"#)
    let plain = try Checkpoint.open(folder.write("base.safetensors", model.bytes))
    var spec = try OutputSpec(path: folder.file("typed.safetensors"), format: nil, default: .safetensors)
    _ = try StreamJob.dequantize(plain, dtype: dtype, to: spec).run()
    let base = try Checkpoint.open(spec.path)
    let before = try values(base.tensors[0])
    let adapters = [
      MergeOptions.Weighted(try AdapterFile.open(folder.file("adapter")), weight: 0.75),
      .init(try AdapterFile.open(folder.file("adapter")), weight: -0.25),
    ]
    spec.path = folder.file("out.safetensors")
    _ = try StreamJob.merge(base, MergeOptions(adapters), to: spec).run()
    let after = try values(Checkpoint.open(spec.path).tensors[0])
    for i in 0..<rows {
      for j in 0..<columns {
        var sum = 0.0
        for k in 0..<rank { sum += Double(b[i * rank + k]) * Double(a[k * columns + j]) }
        let exact = Double(before[i * columns + j]) + 0.5 * 1.5 * sum
        let found = Double(after[i * columns + j])
        if dtype == .f32 {
          #expect(abs(found - exact) <= 2e-6 * max(abs(exact), 0.05))
        } else {
          // Where the two nearly cancel, what float32 lost of them counts too.
          let lost = exp2(-24) * 4 * (abs(Double(before[i * columns + j])) + 0.75 * abs(sum))
          let ulp = max(exp2(floor(log2(abs(exact))) - (dtype == .bf16 ? 7 : 10)), dtype == .f16 ? exp2(-24) : 0)
          #expect(abs(found - exact) <= 0.5 * ulp + lost, "\(exact) \(found)")
        }
      }
    }
  }

  @Test("a base in shards gives the same model, in as many shards as are asked for")
  func shards() throws {
    let file = try MergeTests.adapter("dec_all_linear_patterns")
    var identities: [Digest128] = []
    for (base, limit) in [("llama", Int.max), ("llama-sharded", Int.max), ("llama-sharded", 60_000)] {
      var spec = try OutputSpec(path: folder.file("out-\(identities.count)"), format: nil, default: .safetensors)
      spec.maximumShard = limit
      identities.append(
        try StreamJob.merge(Checkpoint.open(fixture("models/" + base)), MergeOptions([.init(file)]), to: spec).run().identity)
      let merged = try Checkpoint.open(spec.path)
      #expect(try merged.verify().identity == identities.last)
      #expect((merged.files.count > 1) == (limit != Int.max))
    }
    #expect(identities[1] == identities[2])
  }
}
