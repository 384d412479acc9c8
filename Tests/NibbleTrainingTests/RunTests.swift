import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

@Suite("Training runs")
struct RunTests {
  let folder = TemporaryFolder()

  static func rows(_ count: Int = 24, length: Int = 12) -> [TrainingRow] {
    var random = Generator(4)
    return (0..<count).map { row in
      let ids = (0..<length + row % 5).map { _ in Int(random.next() % 250) + 3 }
      return TrainingRow(ids, labels: ids, place: "\(row)")
    }
  }

  static func options(steps: Int, _ change: (inout FinetuneOptions) -> Void = { _ in }) -> FinetuneOptions {
    var options = FinetuneOptions()
    options.run.optimizer.learningRate = 1e-2
    (options.run.maximumSteps, options.run.batchSize, options.saveSteps) = (steps, 3, 4)
    change(&options)
    return options
  }

  struct Stop: Error {}

  @discardableResult
  func train(
    _ name: String, _ options: FinetuneOptions, base: String = "llama", threads: Int = 2, resume: Bool = false,
    stopAfter: Int? = nil,
    valid: [TrainingRow] = []
  ) throws -> Finetuning.Result? {
    let model = try Model(fixture("models/" + base), threads: threads)
    let tuning = try Finetuning(model, options, train: Self.rows(), valid: valid)
    let output = try TrainingFolder(folder.file(name), resume ? .resume : .anew(force: false))
    var count = 0
    do {
      return try tuning.train(in: output, resume: resume) { _, _ in
        count += 1
        if count == stopAfter { throw Stop() }
      }
    } catch is Stop {
      return nil
    }
  }

  func adapter(_ name: String) throws -> [UInt8] { try bytes(of: folder.file(name + "/adapter_model.safetensors")) }

  @Test("give the same adapter with any number of threads", arguments: [0.0, 0.2])
  func threads(_ dropout: Double) throws {
    let options = Self.options(steps: 6) { $0.run.dropout = dropout }
    for threads in [1, 2, 3] { try train("\(threads)", options, threads: threads) }
    #expect(try adapter("1") == adapter("2"))
    #expect(try adapter("1") == adapter("3"))
  }

  @Test("and with checkpointing or without", arguments: [AdapterOptions.Method.lora, .dora])
  func checkpointing(_ method: AdapterOptions.Method) throws {
    for isOn in [true, false] {
      try train("\(isOn)", Self.options(steps: 5) { ($0.run.checkpointing, $0.adapter.method) = (isOn, method) })
    }
    #expect(try adapter("true") == adapter("false"))
  }

  @Test(
    "learn: the loss of rows seen again and again falls", arguments: AdapterOptions.Method.allCases,
    ["llama", "llama-bnb-nf4-dq", "gpt2"])
  func learning(_ method: AdapterOptions.Method, _ base: String) throws {
    // Codes are not trained.
    guard method != .full && method.adapter?.method.needsFloats != true || !base.contains("bnb") else { return }
    let name = "\(method)-\(base)"
    // Those that scale what is there, or begin as zeros between random numbers, take longer.
    let isSlow = ["adalora", "vera", "ia3"].contains(method.rawValue)
    let options = Self.options(steps: 40) { options in
      options.adapter.method = method
      if isSlow { options.run.optimizer.learningRate *= 10 }
    }
    let result = try train(name, options, base: base, valid: Self.rows())
    let before = try #require(result?.validationBefore.first?.value)
    #expect(try #require(result?.validationLoss) < (isSlow ? 0.98 : 0.9) * before)
  }

  @Test("go on where they were stopped, to the same adapter byte for byte", arguments: [1, 5, 9], [0.0, 0.1])
  func resumed(_ stop: Int, _ dropout: Double) throws {
    let options = Self.options(steps: 12) { ($0.run.dropout, $0.validationSteps) = (dropout, 3) }
    let whole = try train("whole", options, valid: Self.rows(4))
    try train("parts", options, stopAfter: stop, valid: Self.rows(4))
    let result = try train("parts", options, resume: true, valid: Self.rows(4))
    #expect(try adapter("whole") == adapter("parts"))
    #expect(result?.smoothedLoss == whole?.smoothedLoss && result?.validationLoss == whole?.validationLoss)
    func losses(_ name: String) throws -> [String] {
      try String(decoding: bytes(of: folder.file(name + "/metrics.jsonl")), as: UTF8.self).split(separator: "\n").map {
        String($0.split(separator: ",\"seconds")[0])
      }
    }
    #expect(try losses("whole") == losses("parts"))
  }

  @Test("end early when validation finds no progress, with the best adapter")
  func early() throws {
    var options = Self.options(steps: 60) { ($0.validationSteps, $0.patience) = (1, 3) }
    options.run.optimizer.learningRate = 0.05
    let held = (0..<4).map { row in
      TrainingRow(
        (0..<10).map { ($0 * 37 + row * 11) % 250 + 3 }, labels: (0..<10).map { ($0 * 37 + row * 11) % 250 + 3 }, place: "v")
    }
    let result = try #require(try train("early", options, valid: held))
    #expect(result.steps < 60)
    let best = try #require(result.bestStep)
    #expect(best == result.steps - 3)
    let model = try Model(fixture("models/llama"), threads: 1)
    let pass = try TrainingPass(model, Trained(AdapterFile.open(folder.file("early")), on: model))
    let loss = try pass.language(held.map { TokenRun($0.ids) }, labels: held.map(\.labels), learns: false).loss
    #expect(abs(loss - (result.validationLoss ?? 0)) < 1e-6)
  }

  @Test("write the best adapter where that is asked for, not the last")
  func best() throws {
    var options = Self.options(steps: 12) { ($0.validationSteps, $0.writesBest) = (1, true) }
    options.run.optimizer.learningRate = 0.3
    let result = try #require(try train("best", options, valid: Self.rows(4)))
    let rows = try String(decoding: bytes(of: folder.file("best/metrics.jsonl")), as: UTF8.self).split(separator: "\n")
    let losses = try rows.map { try JSON.parse(Array($0.utf8)) }.filter { $0["step"]?.int != 0 }.compactMap { $0["valid_loss"]?.double }
    #expect(losses.count == 12 && result.validationLoss == losses.min())
  }

  @Test("DoRA with dropout: at its start the factors' gradients are those of LoRA, and magnitudes' are the slope of the loss")
  func droppedDoRA() throws {
    let model = try Model(fixture("models/llama"), threads: 2)
    let rows = Self.rows(4)
    func pass(_ method: AdapterOptions.Method) throws -> TrainingPass {
      var options = AdapterOptions()
      options.method = method
      let pass = try TrainingPass(model, Trained(options, on: model))
      pass.dropout = Dropout(rate: 0.3, seed: 5, pass: 2)
      return pass
    }
    func loss(_ pass: TrainingPass, learns: Bool) throws -> Double {
      try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: learns).loss
    }
    let lora = try pass(.lora), dora = try pass(.dora)
    #expect(try abs(loss(lora, learns: true) - loss(dora, learns: true)) < 1e-6)
    for (id, factors) in lora.trained.modules {
      let other = try #require(dora.trained.modules[id])
      for name in [LoRA.first, LoRA.second] {
        let (a, b) = (try #require(factors.parts[name]), try #require(other.parts[name]))
        let scale = a.gradient.values.map { abs($0) }.max() ?? 0
        #expect(zip(a.gradient.values, b.gradient.values).allSatisfy { abs($0 - $1) <= 1e-4 * scale + 1e-7 })
      }
      let magnitude = try #require(other.parts[DoRA.magnitude])
      let slope = Double(magnitude.gradient.values[3]), step: Float = 0.02 * magnitude.values.values[3]
      let kept = magnitude.values.values[3]
      magnitude.values.values[3] = kept + step
      let above = try loss(dora, learns: false)
      magnitude.values.values[3] = kept - step
      let below = try loss(dora, learns: false)
      magnitude.values.values[3] = kept
      #expect(abs((above - below) / Double(2 * step) - slope) < 2e-5 + 0.02 * abs(slope))
    }
  }

  @Test("stop where numbers are no longer finite, and name step and layer")
  func overflow() throws {
    let model = try Model(fixture("models/llama"), threads: 2)
    var options = Self.options(steps: 9)
    (options.run.optimizer.learningRate, options.run.optimizer.maximumNorm) = (1e30, 0)
    let output = try TrainingFolder(folder.file("out"), .anew(force: false))
    let error = #expect(throws: NibbleError.self) {
      try Finetuning(model, options, train: Self.rows()).train(in: output, resume: false) { _, _ in }
    }
    #expect(error?.kind == .quality && error?.message.hasPrefix("step 2: layer 0") == true, "\(error?.message ?? "")")
  }

  @Test("name the layer whose gradients are no longer finite")
  func steep() throws {
    // Hidden states of zero: a norm with hardly an epsilon gives slopes of 1e19 there.
    let base = folder.file("steep")
    try FileManager.default.copyItem(atPath: fixture("models/llama"), toPath: base)
    let config = try String(contentsOfFile: base + "/config.json", encoding: .utf8)
    try folder.write("steep/config.json", config.replacingOccurrences(of: "1e-06", with: "1e-38"))
    let model = try Model(base, threads: 2)
    var options = AdapterOptions()
    options.modulesToSave = ["embed_tokens"]
    let trained = try Trained(options, on: model)
    try #require(trained.matrices.values.first).values.values.update(repeating: 0)
    let rows = Self.rows(2)
    let error = #expect(throws: NibbleError.self) {
      try TrainingPass(model, trained).language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels))
    }
    #expect(error?.message == "layer 0 gives NaN or infinite gradients", "\(error?.message ?? "")")
  }

  @Test("start with an adapter that changes nothing")
  func beginning() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    for method in AdapterOptions.Method.allCases {
      var options = AdapterOptions()
      options.method = method
      let pass = try TrainingPass(model, Trained(options, on: model)), bare = TrainingPass(model, Trained())
      let rows = Self.rows(4)
      let runs = rows.map { TokenRun($0.ids) }
      let a = try pass.language(runs, labels: rows.map(\.labels), learns: false).loss
      let b = try bare.language(runs, labels: rows.map(\.labels), learns: false).loss
      #expect(abs(a - b) < 1e-6)
    }
  }

  @Test("write adapters that attach to the base they know")
  func written() throws {
    let result = try train("out", Self.options(steps: 8), valid: Self.rows(5))
    let file = try AdapterFile.open(folder.file("out"))
    let base = try Checkpoint.open(fixture("models/llama"))
    #expect(file.modules.count == 14 && file.warnings.isEmpty)
    #expect(try file.binding?.base == base.hash())
    #expect(try file.targetWarnings(base).isEmpty)
    let model = try Model(base.path, threads: 1)
    let pass = try TrainingPass(model, Trained(file, on: model))
    let rows = Self.rows(5)
    let loss = try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: false).loss
    #expect(abs(loss - (result?.validationLoss ?? 0)) < 1e-6)
  }

  @Test("refuse data that teaches nothing, targets that match nothing, another run's checkpoints")
  func refused() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    let silent = [TrainingRow([1, 2, 3], labels: [5, -100, -100], place: "x")]
    #expect(throws: NibbleError.self) { try Finetuning(model, Self.options(steps: 1), train: silent) }
    #expect(throws: NibbleError.self) { try Finetuning(model, Self.options(steps: 1), train: []) }
    #expect(throws: NibbleError.self) {
      try Finetuning(model, Self.options(steps: 1) { $0.adapter.targets = "nothing" }, train: Self.rows())
    }
    for stray in ["q_proj,nothing", "q_proj,norm"] {
      #expect(throws: NibbleError.self) {
        try Finetuning(model, Self.options(steps: 1) { $0.adapter.targets = stray }, train: Self.rows())
      }
    }
    #expect(throws: NibbleError.self) {
      try Finetuning(model, Self.options(steps: 1) { $0.adapter.modulesToSave = ["nothing"] }, train: Self.rows())
    }
    try train("run", Self.options(steps: 5))
    #expect(throws: NibbleError.self) { try train("run", Self.options(steps: 4), resume: true) }
    #expect(throws: NibbleError.self) { try train("run", Self.options(steps: 5)) }
  }

  @Test("targets are layers of attention, of the MLP, names or patterns")
  func targets() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    func count(_ targets: String, without excluded: String? = nil) throws -> Int {
      var options = AdapterOptions()
      (options.targets, options.excluded) = (targets, excluded)
      options.rankPattern = [("layers.0", 2)]
      let trained = try Trained(options, on: model)
      #expect(trained.modules.values.allSatisfy { $0.rank == ($0.tensors[0].name.contains("layers.0") ? 2 : 8) })
      return trained.modules.count
    }
    #expect(try count("all-linear") == 14)
    #expect(try count("attention") == 8)
    #expect(try count("mlp") == 6)
    #expect(try count("q_proj,v_proj") == 4)
    #expect(try count("q_proj,embed_tokens,lm_head") == 3)
    #expect(try count(#".*layers\.1\..*_proj"#) == 7)
    #expect(try count("q_proj,v_proj", without: "v_proj") == 2)
    #expect(try count("all-linear", without: #".*layers\.0\..*"#) == 7)
  }

  @Test(
    "modules are excluded only if they are targets, and some are left",
    arguments: [("q_proj", "v_proj"), ("q_proj,v_proj", "q_proj,o_proj"), ("q_proj", "q_proj"), ("q_proj", "lm_head")])
  func excluded(_ targets: String, _ excluded: String) throws {
    var options = AdapterOptions()
    (options.targets, options.excluded) = (targets, excluded)
    let model = try Model(fixture("models/llama"), threads: 1)
    let error = #expect(throws: NibbleError.self) { try Trained(options, on: model) }
    #expect(error?.kind == .usage, "\(error?.message ?? "")")
  }

  @Test(
    "rows are trained of tables there are, which are not trained otherwise",
    arguments: [
      ("nothing", [3], ""), (nil, [256], ""), (nil, [3, 3], ""), (nil, [3], "embed_tokens"), ("q_proj", [3], ""), ("lm_head", [3], "lm_head"),
    ] as [(String?, [Int], String)])
  func rows(_ module: String?, _ tokens: [Int], _ whole: String) throws {
    var options = AdapterOptions()
    options.tokenRows = [.init(module: module, tokens)]
    if !whole.isEmpty { options.modulesToSave = [whole] }
    let model = try Model(fixture("models/llama"), threads: 1)
    let error = #expect(throws: NibbleError.self) { try Trained(options, on: model) }
    #expect(error?.kind == .usage, "\(error?.message ?? "")")
  }
}
