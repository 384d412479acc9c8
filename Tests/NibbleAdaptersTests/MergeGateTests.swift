import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("What stops a merge")
struct MergeGateTests {
  let folder = TemporaryFolder()

  func base(_ tensors: [(String, [Int])], _ config: String?) throws -> Checkpoint {
    var model = SafetensorsBuilder()
    for (name, shape) in tensors { model.add(random: name, shape, seed: 3) }
    let file = try folder.write("base/model.safetensors", model.bytes)
    guard let config else { return try Checkpoint.open(file) }
    _ = try folder.write("base/config.json", config)
    return try Checkpoint.open(folder.file("base"))
  }

  static let llama: [(String, [Int])] = [("model.layers.0.mlp.up_proj.weight", [64, 64])]

  func adapter(
    _ path: String, alpha: String = "2", settings: String = "", rank: Int = 1, size: Int = 64,
    _ change: (inout SafetensorsBuilder) -> Void = { _ in }
  ) throws -> AdapterFile {
    var tensors = SafetensorsBuilder()
    tensors.add(random: "base_model.model.\(path).lora_A.weight", [rank, size], seed: 5)
    tensors.add(random: "base_model.model.\(path).lora_B.weight", [size, rank], seed: 6)
    change(&tensors)
    _ = try folder.write("adapter/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write(
      "adapter/adapter_config.json", #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": \#(alpha)\#(settings)}"#)
    return try AdapterFile.open(folder.file("adapter"))
  }

  func job(
    _ base: Checkpoint, _ adapter: AdapterFile, _ format: OutputFormat = .safetensors, check: MergeCheck? = nil,
    minimum: Double? = nil
  ) throws -> StreamJob {
    var options = MergeOptions([.init(adapter)])
    options.minimumSurvival = minimum
    var spec = try OutputSpec(path: folder.file("out"), format: format, default: format)
    spec.force = true
    return try StreamJob.merge(base, options, to: spec, check: check)
  }

  @Test(
    "changes that cannot be measured, whatever the least survival",
    arguments: [OutputFormat.safetensors, .nbl], [nil, 0, 0.5] as [Double?])
  func unmeasured(_ format: OutputFormat, _ minimum: Double?) throws {
    let base = try base(Self.llama, #"{"model_type": "llama"}"#)
    for way in format == .nbl ? [WhenLost.fail, .promote, .sixteenBits, .shape] : [.fail] {
      var job = try job(base, adapter("model.layers.0.mlp.up_proj", alpha: "1e38"), format, minimum: minimum)
      job.changing.whenLost = way
      let error = #expect(throws: NibbleError.self, "\(way)") { try job.run() }
      #expect(error?.kind == .quality, "\(way)")
      #expect(PathKind(folder.file("out")) == .nothing)
    }
  }

  @Test("no measure takes what is no number for a good one")
  func notANumber() throws {
    #expect(notBelowZero(.nan).isNaN)
    #expect(notBelowZero(-1e-9) == 0)
    #expect(!ChangeSums(kept: .infinity, delta: .infinity, base: 1, noise: 0).isMeasured)
    #expect(ChangeSums(kept: 1, delta: 1, base: 0, noise: 0).isMeasured)
  }

  // MARK: - The check on random inputs

  /// What the check tries first.
  static func checkInput(_ count: Int) -> [Float] {
    var state: UInt64 = 0x9E37_79B9_7F4A_7C15
    return (0..<count).map { _ in
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      return Float(Int32(truncatingIfNeeded: state >> 16)) / Float(Int32.max)
    }
  }

  /// A change of rank 1 far larger than the base, of which the check's own input sees next to nothing.
  func unlucky(_ change: @escaping @Sendable (any TensorChange) -> any TensorChange = { $0 }) throws -> (StreamJob, MergeCheck) {
    let base = try base(Self.llama, #"{"model_type": "llama"}"#)
    let plain = try adapter("model.layers.0.mlp.up_proj", alpha: "1")
    let x = Self.checkInput(64)
    var a = try factors(#require(plain.modules.first)).a
    // Without the part along the input, almost.
    let along = zip(a, x).reduce(0) { $0 + $1.0 * $1.1 } / x.reduce(0) { $0 + $1 * $1 }
    for index in a.indices { a[index] -= 0.999 * along * x[index] }
    let check = MergeCheck()
    let name = "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"
    let adapter = try adapter("model.layers.0.mlp.up_proj", alpha: "3000") {
      $0.tensors.removeAll { $0.name == name }
      $0.add(name, [1, 64], a)
    }
    var job = try job(base, adapter, .nbl, check: check, minimum: 0)
    let made = try #require(job.items[0].change)
    job.items[0].change = { change(try made()) }
    return (job, check)
  }

  @Test("the one output of a small head may be small: the rounding of its codes is no false alarm")
  func smallHeads() throws {
    var model = SafetensorsBuilder(), factors = SafetensorsBuilder()
    let heads = (0..<60).map { "heads.\($0).dense" }
    for (index, head) in heads.enumerated() {
      model.add(random: head + ".weight", [1, 16], seed: UInt64(100 + index))
      factors.add("base_model.model.\(head).lora_A.weight", [1, 16], [Float](repeating: 0.01, count: 16))
      factors.add("base_model.model.\(head).lora_B.weight", [1, 1], [0.01])
    }
    _ = try folder.write("adapter/adapter_model.safetensors", factors.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#)
    let base = try Checkpoint.open(folder.write("base.safetensors", model.bytes))
    let check = MergeCheck()
    _ = try job(base, AdapterFile.open(folder.file("adapter")), .nbl, check: check, minimum: 0).run()
    #expect(check.result.count == heads.count)
  }

  @Test("an input that hardly sees a large change is moved until it does: rounding is no false alarm")
  func falseAlarm() throws {
    let (job, check) = try unlucky()
    _ = try job.run()
    #expect(check.result.count == 1)
    #expect(check.result.difference < 0.4)
  }

  @Test("a change that is missing, turned around or put elsewhere is found all the same", arguments: [0, -1, 0.3, 2] as [Float])
  func wrongMerge(_ factor: Float) throws {
    let (job, _) = try unlucky { Scaled(change: $0, factor: factor) }
    let error = #expect(throws: NibbleError.self) { try job.run() }
    #expect(error?.kind == .quality)
    #expect(error?.message.contains("as written") == true)
  }

  struct Scaled: TensorChange {
    let change: any TensorChange
    let factor: Float
    func delta(
      _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _ scratch: Scratch
    ) {
      change.delta(values, start, count, into: delta, scratch)
      for index in 0..<count { delta[index] *= factor }
    }
  }

  // MARK: - Which way a square weight is stored

  static let block = "transformer.h.0."
  static let squares: [(String, [Int])] = [("wte.weight", [9, 64]), (block + "attn.c_proj.weight", [64, 64])]

  @Test(
    "a square layer of GPT-2's names follows its siblings, not fan_in_fan_out",
    arguments: [
      (block + "attn.c_attn.weight", [64, 192], true), (block + "attn.c_attn.weight", [192, 64], false),
      (block + "mlp.c_fc.weight", [64, 256], true), (block + "mlp.c_proj.weight", [256, 64], true),
      (block + "mlp.c_proj.weight", [64, 256], false),
    ])
  func siblings(_ name: String, _ shape: [Int], _ isInputsFirst: Bool) throws {
    let base = try base(Self.squares + [(name, shape)], nil)
    for says in [true, false] {
      let adapter = try adapter(Self.block + "attn.c_proj", settings: #", "fan_in_fan_out": \#(says)"#)
      _ = try job(base, adapter, check: MergeCheck()).run()
      let merged = try Checkpoint.open(folder.file("out") + "/model.safetensors")
      let weight = ByteName(Self.block + "attn.c_proj.weight")
      let (before, after) = (try values(#require(base.tensor(weight))), try values(#require(merged.tensor(weight))))
      let (a, b) = try factors(adapter.modules[0])
      for row in 0..<64 {
        for column in 0..<64 {
          let change = 2 * (isInputsFirst ? a[row] * b[column] : b[row] * a[column])
          #expect(abs(after[row * 64 + column] - before[row * 64 + column] - change) < 1e-6)
        }
      }
    }
  }

  @Test("where nothing shows how it is stored, it is refused")
  func unknownOrientation() throws {
    let base = try base(Self.squares, nil)
    let error = #expect(throws: NibbleError.self) { try job(base, adapter(Self.block + "attn.c_proj")) }
    #expect(error?.kind == .adapterMismatch)
    #expect(error?.message.contains("config.json") == true)
  }

  // MARK: - Names and configurations

  @Test(
    "names match with the base's own prefix and without, and with no other family's",
    arguments: [
      ("bert", "bert.", "bert.", true), ("bert", "bert.", "", true), ("bert", "bert.", "roberta.", false),
      ("bert", "", "bert.", true), ("bert", "", "roberta.", false), ("roberta", "roberta.", "bert.", false),
      ("roberta", "", "roberta.", true), ("xlm-roberta", "", "bert.", false), ("bert", "bert.", "model.", false),
    ])
  func prefixes(_ type: String, _ own: String, _ given: String, _ fits: Bool) throws {
    let layer = "encoder.layer.0.attention.self.query"
    let base = try base([(own + layer + ".weight", [64, 64])], #"{"model_type": "\#(type)"}"#)
    let adapter = try adapter(given + layer)
    if fits {
      #expect(try job(base, adapter).items[0].change != nil)
    } else {
      let error = #expect(throws: NibbleError.self) { try job(base, adapter) }
      #expect(error?.kind == .adapterMismatch)
    }
  }

  @Test(
    "configurations that PEFT does not load, or that mean another method, are refused by name",
    arguments: [
      ("lora_alpha", "null", 3), ("r", "null", 3), ("target_modules", "[1, 2]", 3), ("target_modules", "[]", 3),
      ("target_modules", "7", 3), ("init_lora_weights", #""pissa""#, 3), ("init_lora_weights", #""pissa_niter_4""#, 3),
      ("init_lora_weights", #""olora""#, 3), ("layer_replication", "[[0, 9]]", 5), ("layer_replication", "[[0]]", 3), ("target_parameters", #"["experts.up"]"#, 3),
      ("alora_invocation_tokens", "[1]", 3), ("modules_to_save", #"["up_proj"]"#, 5),
    ])
  func configurations(_ key: String, _ value: String, _ code: Int32) throws {
    let base = try base(Self.llama, #"{"model_type": "llama"}"#)
    var members: [(String, String)] = [("peft_type", #""LORA""#), ("r", "1"), ("lora_alpha", "2")]
    members.removeAll { $0.0 == key }
    members.append((key, value))
    _ = try adapter("model.layers.0.mlp.up_proj")
    _ = try folder.write(
      "adapter/adapter_config.json", "{" + members.map { "\"\($0.0)\": \($0.1)" }.joined(separator: ", ") + "}")
    let error = #expect(throws: NibbleError.self) { try job(base, AdapterFile.open(folder.file("adapter"))) }
    #expect(error?.kind == (code == 3 ? .badInput : .adapterMismatch))
    #expect(error?.message.contains(key) == true)
  }

  @Test(
    "a layer without the norm that others have, as ModernBERT's first, is repeated at no other place",
    arguments: [("[[0, 1], [0, 2]]", false), ("[[0, 2], [1, 2]]", true)])
  func layersOfTheirOwn(_ order: String, _ isMade: Bool) throws {
    let base = try base(
      Self.llama + [("model.layers.1.mlp.up_proj.weight", [64, 64]), ("model.layers.1.norm.weight", [64])], #"{"model_type": "llama"}"#)
    let file = try adapter("model.layers.0.mlp.up_proj", settings: #", "layer_replication": \#(order)"#)
    let made = Result { try base.replicatingLayers(for: [file]) { nil } }
    guard case .failure(let error) = made else { return #expect(isMade) }
    #expect(!isMade && (error as? NibbleError)?.kind == .adapterMismatch && "\(error)".contains("place 1"))
  }

  @Test("a module trained whole that neither base nor adapter has is warned of, classifiers' common names apart")
  func strangeSavedModules() throws {
    let base = try base(Self.llama, #"{"model_type": "llama"}"#)
    let reported = try job(
      base, adapter("model.layers.0.mlp.up_proj", settings: #", "modules_to_save": ["../x", "classifier", "score"]"#)
    ).warnings
    #expect(reported.filter { $0.message.contains("modules_to_save") }.count == 1)
    #expect(reported.contains { $0.subject == "../x" })
  }

  @Test("biases under the name of an adapter that is not called default", arguments: ["default", "sst", "dense"])
  func namedAdapter(_ name: String) throws {
    let base = try base(
      Self.llama + [("classifier.dense.weight", [64, 64]), ("classifier.dense.bias", [64]), ("classifier.out_proj.bias", [2])],
      #"{"model_type": "llama"}"#)
    let adapter = try adapter("model.layers.0.mlp.up_proj", settings: #", "bias": "all", "modules_to_save": ["classifier"]"#) {
      for (part, shape) in [("dense.bias", [64]), ("out_proj.bias", [2])] {
        $0.add("base_model.model.classifier." + part, shape, [Float](repeating: 3, count: shape[0]))
        $0.add("base_model.model.classifier.modules_to_save.\(name)." + part, shape, [Float](repeating: 3, count: shape[0]))
        $0.add(random: "base_model.model.classifier.original_module." + part, shape)
      }
      $0.add(random: "base_model.model.classifier.dense.weight", [64, 64], seed: 9)
    }
    #expect(
      Set(adapter.replacements.map(\.name)) == ["classifier.dense.bias", "classifier.out_proj.bias", "classifier.dense.weight"])
    let report = try job(base, adapter).run()
    #expect(report.replaced.count == 3)
    #expect(!report.warnings.contains { $0.message.contains("brings a head") })
  }
}
