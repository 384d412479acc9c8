import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant
import NibbleTraining
import TestSupport
import Testing

/// What every method owes whose numbers are no pair of factors but make one, or a change of tiles.
@Suite("Methods of their own numbers")
struct FoldedMethodTests {
  let folder = TemporaryFolder()

  static let cases = [
    MethodCase(method: "iec"), MethodCase(method: "qbara", settings: ["qbara_lambda": 4]), MethodCase(method: "qalora", settings: ["qalora_group_size": 32]),
    MethodCase(method: "qahira", settings: ["qahira_lambda_1": 4, "qahira_lambda_2": 8], folds: false),
  ].map { one in
    var one = one
    (one.rank, one.alpha) = (8, 16)
    return one
  }

  @Test("begin as the base, and have the slopes of the loss for gradients", arguments: cases, ["llama", "gpt2", "llama-bnb-nf4-dq"])
  func slopes(_ one: MethodCase, _ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    #expect(try states(model, Trained(one.options().adapter, on: model).attached(to: model)) == states(model))
    try one.checkSlopes(on: model, change: 0.004)
  }

  @Test("have the slopes of the loss for gradients with dropout", arguments: cases)
  func droppedSlopes(_ one: MethodCase) throws {
    try one.checkSlopes(on: Model(fixture("models/llama"), threads: 2), dropout: Dropout(rate: 0.3, seed: 5, pass: 2), change: 0.004)
  }

  @Test("are trained, read again as they were, merged into what they compute attached, and exported as a plain LoRA adapter", arguments: cases, ["llama", "gpt2"])
  func life(_ one: MethodCase, _ base: String) throws {
    let (model, file, attached) = try one.checkLife(base, in: folder)
    #expect(file.modules.allSatisfy { $0.rank == (one.folds ? one.rank : 0) && $0.isPlain == one.folds })
    guard one.folds else {
      let error = #expect(throws: NibbleError.self) { try AdapterConversion(folder.file("a"), to: .gguf, base: Checkpoint.open(model.path)).report() }
      return #expect(error?.kind == .usage && error?.message.contains("QA-HiRA") == true, "\(error?.message ?? "")")
    }
    // Plain LoRA.
    let report = try AdapterConversion(folder.file("a"), to: .peft).write(to: folder.file("plain"), force: false)
    #expect(report.modules == file.modules.count && report.difference < 1e-6)
    let plain = try AdapterFile.open(folder.file("plain"))
    #expect(plain.config.methodName == "LoRA" && plain.config.unknownKeys.isEmpty)
    expectSame(try states(model, model.attach(plain, name: "p")), attached, 1e-5)
    // Looked at, cut down, put together.
    #expect(try AdapterInspection(file).modules.count == file.modules.count)
    try AdapterResizing(file, rank: 2).write(to: folder.file("small"), force: false)
    #expect(try AdapterFile.open(folder.file("small")).config.methodName == "LoRA")
    let two = try AdapterCombination(MergeOptions([.init(file), .init(plain, weight: -1)])).report()
    #expect(two.worstError < 1e-5)
  }

  @Test("learn in a run, resumed or not, with dropout and accumulation", arguments: cases)
  func run(_ one: MethodCase) throws {
    let result = try one.checkRun(dropout: 0.1)
    #expect(result.warnings.isEmpty && result.trained > 0)
  }
}

@Suite("Files of methods of their own numbers")
struct MethodFileTests {
  let folder = TemporaryFolder()

  /// An adapter of one module, `model.layers.0.self_attn.q_proj`, whose layer takes and gives 64.
  private func file(_ config: String, _ shapes: [(String, [Int])], named module: String = "model.layers.0.self_attn.q_proj") throws {
    var builder = SafetensorsBuilder()
    for (suffix, shape) in shapes { builder.add(random: "base_model.model.\(module).\(suffix)", shape) }
    try folder.write("a/adapter_model.safetensors", builder.bytes)
    try folder.write("a/adapter_config.json", config)
  }

  private static let pair: [(String, [Int])] = [("lora_A.weight", [4, 64]), ("lora_B.weight", [64, 4])]
  private static let strengths: [(String, [Int])] = [("lora_default_A_scale", [1]), ("lora_default_B_scale", [1])]
  private static let grouped: [(String, [Int])] = [("lora_A.weight", [4, 4]), ("lora_B.weight", [64, 4])]

  @Test("that are not what they say are refused with the module or the key named", arguments: [
    (#"{"peft_type": "IEC", "r": 4}"#, pair, "lora_default_A_scale is missing"),
    (#"{"peft_type": "LORA", "r": 4}"#, pair + [strengths[0]], "lora_default_B_scale is missing"),
    (#"{"peft_type": "IEC", "r": 6}"#, [("lora_A.weight", [6, 64]), ("lora_B.weight", [64, 6])] + strengths, "needs a rank that divides its 64 inputs"),
    (#"{"peft_type": "IEC", "r": 4}"#, pair + [("lora_default_A_scale", [2]), strengths[1]], "lora_default_A_scale has shape [2]"),
    (#"{"peft_type": "IEC", "r": 4}"#, [("lora_embedding_A", [4, 64]), ("lora_embedding_B", [64, 4])] + strengths, "do not fit together as IEC of a linear layer"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 3}"#, pair, "do not fit together as Q-BaRA"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 2}"#, pair, "its factors have rank 2, adapter_config.json says r=4"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 0}"#, pair, "qbara_lambda is '0', expected a whole number from 1"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 1.5}"#, pair, "qbara_lambda"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 1, "qbara_lambda_pattern": {"q_proj": "x"}}"#, pair, "qbara_lambda_pattern: 'q_proj'"),
    (#"{"peft_type": "QBARA", "r": 4, "qbara_lambda": 1, "qbara_lambda_pattern": 3}"#, pair, "qbara_lambda_pattern is '3', expected an object"),
    (#"{"peft_type": "QBARA", "r": 1, "qbara_lambda": 4096}"#, [("lora_A.weight", [4096, 64]), ("lora_B.weight", [64, 4096])], "which no layer has"),
    (#"{"peft_type": "LORA", "r": 4, "use_qalora": true, "qalora_gain": "median"}"#, grouped, "qalora_gain is '\"median\"', expected groups or mean or sum"),
    (#"{"peft_type": "LORA", "r": 4, "use_qalora": true, "qalora_group_size": 1000000}"#, grouped, "takes 64"),
    (#"{"peft_type": "LORA", "r": 4, "use_qalora": true, "use_dora": true}"#, grouped, "use_qalora does not go with DoRA"),
    (#"{"peft_type": "QAHIRA", "qahira_lambda_1": 4, "qahira_lambda_2": 4}"#, [("lora_C.weight", [16, 8])], "takes 64"),
    (#"{"peft_type": "QAHIRA", "r": 4}"#, pair, "adapter_config.json describes QA-HiRA"),
  ] as [(String, [(String, [Int])], String)])
  func refused(_ config: String, _ shapes: [(String, [Int])], _ message: String) throws {
    try file(config, shapes)
    let model = try Model(fixture("models/llama"), threads: 1)
    let error = #expect(throws: NibbleError.self) { _ = try model.attach(AdapterFile.open(folder.file("a")), name: "a") }
    #expect(error?.message.contains(message) == true, "\(error?.message ?? "")")
    #expect(error?.kind == .badInput || error?.kind == .adapterMismatch)
  }

  @Test("of QA-LoRA that record no gain are refused, attached and merged; recorded, they are PEFT's of the same change", arguments: QALoRA.Gain.allCases)
  func gains(_ gain: QALoRA.Gain) throws {
    try file(#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6}"#, Self.grouped)
    let model = try Model(fixture("models/llama"), threads: 1), base = try Checkpoint.open(fixture("models/llama"))
    let spec = try OutputSpec(path: folder.file("m"), format: nil, default: .safetensors)
    let attached = #expect(throws: NibbleError.self) { _ = try model.attach(AdapterFile.open(folder.file("a")), name: "a") }
    let merged = #expect(throws: NibbleError.self) { _ = try StreamJob.merge(base, MergeOptions([.init(AdapterFile.open(folder.file("a")))]), to: spec) }
    for error in [attached, merged] {
      #expect(error?.kind == .badInput && error?.message.contains("QA-LoRA by groups of 16, with a gain that is not recorded") == true, "\(error?.message ?? "")")
    }
    #expect(try RecordedGain(folder.file("a"), gain: gain.rawValue, groupSize: 16).write(to: folder.file("r"), force: false) == 1)
    try file(#"{"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_qalora": true, "qalora_gain": "\#(gain.rawValue)"}"#, Self.grouped)
    let (recorded, said) = (try AdapterFile.open(folder.file("r")), try AdapterFile.open(folder.file("a")))
    #expect(recorded.config.json["qalora_gain"] == nil && recorded.config.methodName == "QA-LoRA")
    #expect(try AdapterDifference(recorded, said).modules.allSatisfy { $0.distance < 1e-6 })
    #expect(throws: NibbleError.self) { _ = try RecordedGain(folder.file("a"), gain: "mean", groupSize: 16) }
  }
}

/// The paper's own numbers, computed in float64 from their equations.
@Suite("Golden vectors of methods that fold into factors")
struct FoldedGoldenTests {
  private let engine = Engine(.f32, team: Team(threads: 1))
  private let golden: TensorFile

  init() throws { golden = try TensorFile(fixture("quantized_methods.safetensors")) }

  private func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor(name), "\(name)")) }

  private func matrix(_ name: String) throws -> Matrix {
    let shape = try #require(golden.tensor(name), "\(name)").shape
    return Matrix(try floats(name), rows: shape[0], columns: shape[1])
  }

  /// The base of the case for QA-LoRA: σ · (q − z) in groups of 32.
  private func dequantized() throws -> Matrix {
    let (codes, scale, zero) = (try golden.integers(#require(golden.tensor("qa_lora/codes"))), try floats("qa_lora/scale"), try floats("qa_lora/zero"))
    return Matrix(codes.indices.map { scale[$0 / 32] * (Float(codes[$0]) - zero[$0 / 32]) }, rows: 16, columns: 128)
  }

  private func expect(_ found: some Sequence<Float>, _ name: String) throws {
    let expected = try floats(name)
    #expect(Array(found).count == expected.count, "\(name)")
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y), "\(name): \(x), \(y)") }
  }

  /// Forward, backward and the plain pair of one layer.
  private func check(
    _ name: String, _ type: any AdapterMethod.Type, matrices: [String: String], values: [String: String] = [:], scale: Double,
    settings: MethodSettings = [:], weight: String? = "W", y: String = "y", gradients: [String: String]
  ) throws {
    let numbers = MethodNumbers(
      matrices: try matrices.mapValues { try matrix(name + "/" + $0) },
      values: try values.mapValues { FloatStore(try floats(name + "/" + $0)) }, scale: scale, settings: settings, engine)
    let made = type.init(numbers)
    let method = try #require(made), pair = try #require(method.pair)
    let x = FloatStore(try floats(name + "/x")), weight = try weight.map { try matrix(name + "/" + $0) } ?? dequantized()
    let rows = x.count / weight.inputs
    let out = FloatStore(count: rows * weight.outputs)
    engine.multiply(x.start, rows: rows, stride: weight.inputs, [.init(weight, out.start, stride: weight.outputs)])
    let pass = PairPass(pair, rows: rows, engine, Scratch())
    pass.add(x.start, to: out.start, stride: weight.outputs)
    try expect(out.values, name + "/" + y)
    guard !gradients.isEmpty else { return }
    let own = try gradients.mapValues { FloatStore([Float](repeating: 0, count: try floats(name + "/" + $0).count)) }
    let dy = FloatStore(try floats(name + "/dy"))
    withExtendedLifetime((x, dy)) { pass.backward(dy.start, stride: weight.outputs, x.start, of: method, own) }
    for (part, expected) in gradients { try expect(try #require(own[part]).values, name + "/" + expected) }
    try expect(pair.values.a, name + "/A_plain")
    try expect(pair.values.b, name + "/B_plain")
  }

  @Test("IEC")
  func iec() throws {
    try check(
      "iec", IEC.self, matrices: ["lora_A": "lora_A", "lora_B": "lora_B"],
      values: [IEC.firstStrength: "A_scale", IEC.secondStrength: "B_scale"], scale: 0.25,
      gradients: ["lora_A": "dA", "lora_B": "dB", IEC.firstStrength: "dA_scale", IEC.secondStrength: "dB_scale"])
  }

  @Test("Q-BaRA")
  func qbara() throws {
    try check(
      "q_bara", QBaRA.self, matrices: ["lora_A": "lora_A", "lora_B": "lora_B"], scale: 2, settings: ["qbara_lambda": 2],
      weight: "W_dequant", gradients: ["lora_A": "dA", "lora_B": "dB"])
  }

  @Test("QA-HiRA")
  func qahira() throws {
    let numbers = MethodNumbers(
      matrices: [QAHiRA.tile: try matrix("qa_hira/C")], scale: 0.25, settings: ["qahira_lambda_1": 4, "qahira_lambda_2": 8], engine)
    let method = try #require(QAHiRA(numbers)), term = try #require(method.pooled)
    let x = FloatStore(try floats("qa_hira/x")), dy = FloatStore(try floats("qa_hira/dy")), weight = try matrix("qa_hira/W_dequant")
    let out = FloatStore(count: 6 * 32), own = FloatStore([Float](repeating: 0, count: 48))
    try withExtendedLifetime((x, dy)) {
      engine.multiply(x.start, rows: 6, stride: 48, [.init(weight, out.start, stride: 32)])
      let pass = PooledPass(term, rows: 6, engine, Scratch())
      pass.add(x.start, to: out.start, stride: 32)
      try expect(out.values, "qa_hira/y")
      pass.backward(dy.start, stride: 32, x.start, to: own)
      try expect(own.values, "qa_hira/dC")
    }
  }

  @Test("QA-LoRA by each of the three gains", arguments: [("groups", "y_mean_times_groups"), ("mean", "y_mean"), ("sum", "y_sum")])
  func qalora(_ gain: String, _ y: String) throws {
    let number = try #require(QALoRA.gain.number(JSON(gain)))
    try check(
      "qa_lora", QALoRA.self, matrices: ["lora_A": "lora_A", "lora_B": "lora_B"], scale: 4,
      settings: ["qalora_group_size": 32, "qalora_gain": number], weight: nil, y: y, gradients: [:])
  }

  @Test("numbers to train are counted as the papers' tables have them")
  func counts() throws {
    func integers(_ name: String) throws -> [Int] { try golden.integers(#require(golden.tensor("param_counts/" + name))) }
    let (h, kv, m) = (4096, 1024, 14336)
    let attention = [(h, h), (h, kv), (h, kv), (h, h)], mlp = [(h, m), (h, m), (m, h)]
    func count(_ type: any AdapterMethod.Type, _ layers: [(Int, Int)], _ rank: Int, _ settings: MethodSettings = [:]) -> Int {
      layers.reduce(0) { $0 + type.count(ModuleShape(input: [$1.0], outputs: $1.1, rank: rank, settings: settings)) }
    }
    for (index, rank) in try integers("ranks").enumerated() {
      #expect(try 32 * count(LoRA.self, attention + mlp, rank) == integers("llama3_8b_all_linear")[index])
      #expect(try 32 * count(LoRA.self, attention, rank) == integers("llama3_8b_attention")[index])
      #expect(try 24 * count(LoRA.self, [(1024, 3072)], rank) == integers("gpt2_medium_c_attn")[index])
    }
    // r (in + out), two more a module, r (in / L + out).
    #expect(count(QBaRA.self, mlp, 64, ["qbara_lambda": 2]) == count(LoRA.self, mlp, 64))
    #expect(count(IEC.self, mlp, 64) == count(LoRA.self, mlp, 64) + 6)
    #expect(count(QAHiRA.self, mlp, 64, ["qahira_lambda_1": 4, "qahira_lambda_2": 8]) == 3 * h * m / 32)
    #expect(count(QALoRA.self, [(h, m)], 64, ["qalora_group_size": 32]) == 64 * (h / 32 + m))
  }
}
