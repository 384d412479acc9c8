import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

/// Scaled and shifted features (SSF), arXiv:2210.08823: y = γ∘(x · Wᵀ + b) + β. A method that exists for these tests only; this is all
/// of it.
private struct SSF: AdapterMethod {
  static let name = "SSF", kind = "SSF"
  static let keys: Set<String> = ["ssf_modules"]
  static let scalesOutputs = true, scalesBias = true
  static let parts = [
    MethodPart("ssf_scale", suffixes: [".ssf_scale"]) { [$0.outputs ?? 0] },
    MethodPart("ssf_shift", suffixes: [".ssf_shift"]) { [$0.outputs ?? 0] },
  ]

  static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    parts["ssf_scale"]?.first.map { ModuleShape(outputs: $0) }
  }

  static func start(_ layer: NewModule) -> [String: [Float]] {
    ["ssf_scale": [Float](repeating: 1, count: layer.outputs), "ssf_shift": [Float](repeating: 0, count: layer.outputs)]
  }

  let gamma: FloatStore, beta: FloatStore

  init?(_ numbers: MethodNumbers) {
    guard let gamma = numbers.values["ssf_scale"], let beta = numbers.values["ssf_shift"] else { return nil }
    (self.gamma, self.beta) = (gamma, beta)
  }

  var pair: LowRankPair? { nil }
  var scale: FloatStore? { gamma }
  var bias: FloatStore? { beta }

  func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    if let own = gradients["ssf_shift"] { outputs.addSums(scaledBy: 1, to: own) }
    if let own = gradients["ssf_scale"] { for (o, sum) in outputs.productSums().enumerated() { own.start[o] += Float(sum) } }
    outputs.scale()
  }
}

@Suite("A method added in one file")
struct MethodSeamTests {
  let folder = TemporaryFolder()

  private func with<Result>(_ body: () throws -> Result) rethrows -> Result { try AdapterMethods.$added.withValue([SSF.self], operation: body) }

  private static func options(_ steps: Int = 12) throws -> FinetuneOptions {
    let method = try #require(AdapterOptions.Method(rawValue: "ssf"))
    return RunTests.options(steps: steps) { $0.adapter.method = method }
  }

  /// Trains an adapter into the folder `name`.
  private func train(_ base: String, _ name: String = "a") throws -> AdapterFile {
    let model = try Model(fixture("models/" + base), threads: 2)
    let output = try TrainingFolder(folder.file(name), .anew(force: false))
    let tuning = try Finetuning(model, Self.options(), train: RunTests.rows())
    _ = try tuning.train(in: output, resume: false) { _, _ in }
    return try AdapterFile.open(folder.file(name))
  }

  @Test("begins as the base, and has the slopes of the loss for gradients", arguments: ["llama", "gpt2"])
  func slopes(_ base: String) throws {
    try with {
      let model = try Model(fixture("models/" + base), threads: 2)
      var options = try Self.options().adapter
      options.bias = .all
      let trained = try Trained(options, on: model)
      let begun = try states(model, trained.attached(to: model))
      #expect(begun == (try states(model)))
      for tensor in trained.tensors {
        let random = CountedRandom(seed: 3, stream: XXH3.digest64(of: Array(tensor.name.utf8)))
        for index in 0..<tensor.values.count { tensor.values.start[index] += Float(0.2 * random.normal(UInt64(index))) }
      }
      let pass = TrainingPass(model, trained)
      let rows = RunTests.rows(4)
      func loss(learns: Bool = false) throws -> Double {
        try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: learns).loss
      }
      _ = try loss(learns: true)
      try checkSlopes(of: trained) { try loss() }
    }
  }

  @Test("is trained, stored and read, runs attached, and merges into what it computes", arguments: ["gpt2", "roberta"])
  func life(_ base: String) throws {
    try with {
      let file: AdapterFile
      if base == "gpt2" {
        file = try train(base)
      } else {
        // A model of texts without a head that training has a loss for: numbers of its own.
        file = try drawn(base)
      }
      #expect(file.config.methodName == "SSF" && file.modules.allSatisfy { $0.rank == 0 && $0.methodName == "SSF" })
      let model = try Model(fixture("models/" + base), threads: 2)
      let attached = try states(model, model.attach(file, name: "a"))
      #expect(attached != (try states(model)))
      let job = try StreamJob.merge(
        Checkpoint.open(fixture("models/" + base)), MergeOptions([.init(file)]),
        to: OutputSpec(path: folder.file("merged"), format: nil, default: .safetensors), check: MergeCheck())
      _ = try job.run()
      let merged = try states(Model(folder.file("merged"), threads: 2))
      for (x, y) in zip(attached, merged) { #expect(abs(x - y) <= 2e-4 + 2e-4 * abs(y)) }
    }
  }

  /// An adapter of random numbers for every linear layer of the body.
  private func drawn(_ base: String) throws -> AdapterFile {
    let model = try Model(fixture("models/" + base), threads: 2)
    var builder = SafetensorsBuilder()
    var paths: [String] = []
    for (number, layer) in model.network.parts.layers.enumerated() {
      let random = CountedRandom(seed: 3, stream: UInt64(number))
      paths.append(model.path(ofModule: layer.name))
      for (suffix, mean) in [("ssf_scale", 1.0), ("ssf_shift", 0)] {
        let values = (0..<layer.outputs).map { Float(mean + 0.2 * random.normal(UInt64($0) + (mean == 0 ? 1 << 20 : 0))) }
        builder.add("base_model.model.\(paths[number]).\(suffix)", [layer.outputs], values)
      }
    }
    _ = try folder.write("drawn/adapter_model.safetensors", builder.bytes)
    let config: JSON = ["peft_type": "SSF", "target_modules": JSON(paths), "ssf_modules": .null]
    _ = try folder.write("drawn/adapter_config.json", Array(config.text().utf8))
    return try AdapterFile.open(folder.file("drawn"))
  }

  @Test("is refused by name where it has no place, and where the base has none for it")
  func refused() throws {
    let file = try with { () throws -> AdapterFile in
      let file = try drawn("llama")
      func message(_ body: () throws -> Void) -> String { #expect(throws: NibbleError.self) { try body() }?.message ?? "" }
      #expect(message { _ = try AdapterResizing(file, rank: 2) }.contains("SSF adapter, which has no factors"))
      let base = try Checkpoint.open(fixture("models/llama"))
      let spec = try OutputSpec(path: folder.file("out"), format: nil, default: .safetensors)
      #expect(message { _ = try StreamJob.merge(base, .init([.init(file)]), to: spec) }.contains("has a bias, and the base has none"))
      #expect(message { _ = try StreamJob.unmerge(base, [.init(file)], to: spec) }.contains("is a SSF adapter"))
      let set = try AdapterSet(Model(fixture("models/llama"), threads: 1))
      for name in ["a", "b"] { try set.attach(folder.file("drawn"), as: name) }
      #expect(message { _ = try set.selection([("a", 1), ("b", 1)]) }.contains("'a' is a SSF adapter, which scales outputs"))
      #expect(try AdapterInspection(file).replaced.contains { $0.name.hasSuffix("q_proj, SSF") })
      return file
    }
    // Without the line in the list no adapter is of this method.
    let error = #expect(throws: NibbleError.self) { try AdapterFile.open(file.path) }
    #expect(error?.kind == .badInput && error?.message.contains("'SSF' is not implemented; ") == true)
  }
}
