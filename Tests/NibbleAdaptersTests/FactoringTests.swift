import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

/// The change that a module's factors make, in float64.
func delta(_ module: AdapterFile.AdaptedModule) throws -> [Double] {
  let (a, b) = try factors(module)
  let inputs = a.count / module.rank, outputs = b.count / module.rank
  var delta = [Double](repeating: 0, count: outputs * inputs)
  for o in 0..<outputs {
    for k in 0..<module.rank {
      let factor = module.scale * Double(b[o * module.rank + k])
      for i in 0..<inputs { delta[o * inputs + i] += factor * Double(a[k * inputs + i]) }
    }
  }
  return delta
}

/// A and B of a module.
func factors(_ module: AdapterFile.AdaptedModule) throws -> (a: [Float], b: [Float]) {
  (try values(#require(module.parts[LoRA.first])), try values(#require(module.parts[LoRA.second])))
}

@Suite("Adapters taken out of models, and of another rank")
struct FactoringTests {
  let folder = TemporaryFolder()

  func distance(_ a: [Double], _ b: [Double]) -> Double {
    let missing = zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
    let all = a.reduce(0) { $0 + $1 * $1 }
    return all > 0 ? (missing / all).squareRoot() : missing
  }

  // MARK: - Resizing

  @Test(
    "resized, each module is as far from what it was as is reported, and no further than its singular values say",
    arguments: ["dec_lora_qv", "dec_rslora", "dec_all_linear_patterns", "dec_embedding", "gpt2_c_attn", "resnet_conv"])
  func resized(_ name: String) throws {
    let file = try MergeTests.adapter(name)
    let report = try AdapterResizing(file, rank: 2).write(to: folder.file("r2"), force: false)
    let small = try AdapterFile.open(folder.file("r2"))
    #expect(small.replacements.map(\.name) == file.replacements.map(\.name))
    for ((old, new), reported) in zip(zip(file.modules, small.modules), report.modules) {
      #expect(old.path == new.path && new.rank == 2 && new.scale == 1 && new.isEmbedding == old.isEmbedding)
      let before = try delta(old)
      let (outputs, inputs) = (reported.outputs, reported.inputs)
      var columns = [Double](repeating: 0, count: before.count)
      for o in 0..<outputs { for i in 0..<inputs { columns[i * outputs + o] = before[o * inputs + i] } }
      let values = try LAPACK.svd(columns, rows: outputs, columns: inputs).s
      let missing = values.dropFirst(2).reduce(0) { $0 + $1 * $1 }, all = values.reduce(0) { $0 + $1 * $1 }
      #expect(abs(reported.error - (missing / all).squareRoot()) < 1e-6)
      #expect(abs(reported.error - distance(before, try delta(new))) < 1e-6)
    }
  }

  @Test("resized by energy, each module has the least rank that keeps it")
  func energy() throws {
    let file = try MergeTests.adapter("dec_all_linear_patterns")
    let report = try AdapterResizing(file, energy: 0.8).write(to: folder.file("e"), force: false)
    let small = try AdapterFile.open(folder.file("e"))
    #expect(Set(small.modules.map(\.rank)).count > 1)
    for (reported, module) in zip(report.modules, small.modules) {
      #expect(reported.rank == module.rank && reported.energy >= 0.8)
      guard reported.rank > 1 else { continue }
      let less = try AdapterResizing(file, rank: reported.rank - 1).report()
      #expect(try #require(less.modules.first { $0.path == reported.path }).energy < 0.8)
    }
  }

  @Test("resized to its own rank or more, nothing changes but the numbers", arguments: [4, 30])
  func wider(_ rank: Int) throws {
    let file = try MergeTests.adapter("dec_lora_qv")
    let report = try AdapterResizing(file, rank: rank).write(to: folder.file("w"), force: false)
    #expect(report.error < 1e-7)
    for (old, new) in zip(file.modules, try AdapterFile.open(folder.file("w")).modules) {
      #expect(new.rank == rank)
      #expect(distance(try delta(old), try delta(new)) < 1e-6)
    }
  }

  @Test(
    "resized keep DoRA's magnitudes, biases of factors and what was trained whole",
    arguments: ["dec_dora", "gpt2_lora_bias", "roberta_cls"])
  func kept(_ name: String) throws {
    let file = try MergeTests.adapter(name)
    let full = file.modules.map(\.rank).max() ?? 0
    let report = try AdapterResizing(file, rank: full).write(to: folder.file("k"), force: false)
    let same = try AdapterFile.open(folder.file("k"))
    #expect(report.warnings.contains { $0.message.contains("DoRA") } == (name == "dec_dora"))
    for (old, new) in zip(file.modules, same.modules) {
      if let m = old.parts[DoRA.magnitude] { #expect(try values(m) == values(#require(new.parts[DoRA.magnitude]))) }
      guard let bias = old.parts[LoRA.secondBias] else { continue }
      for (x, y) in zip(try values(bias), try values(#require(new.parts[LoRA.secondBias]))) {
        #expect(abs(Double(x) * old.scale - Double(y)) < 1e-7)
      }
    }
    #expect(same.replacements.map(\.name) == file.replacements.map(\.name))
    for (old, new) in zip(file.replacements, same.replacements) { #expect(try values(old.tensor) == values(new.tensor)) }
  }

  @Test(
    "ranks and shares that are none are refused",
    arguments: [(0, nil), (4000, nil), (nil, 0), (nil, 1.5), (nil, nil)] as [(Int?, Double?)])
  func noRank(_ rank: Int?, _ energy: Double?) throws {
    let file = try MergeTests.adapter("dec_lora_qv")
    let error = #expect(throws: NibbleError.self) { try AdapterResizing(file, rank: rank, energy: energy) }
    #expect(error?.kind == .usage)
  }

  /// An adapter of one module whose scale is `alpha` / 2.
  func scaled(_ alpha: Double) throws -> AdapterFile {
    var factors = SafetensorsBuilder()
    factors.add(random: "base_model.model.layer.lora_A.weight", [2, 8])
    factors.add(random: "base_model.model.layer.lora_B.weight", [8, 2])
    try folder.write("in/adapter_model.safetensors", factors.bytes)
    try folder.write("in/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": \#(alpha)}"#)
    return try AdapterFile.open(folder.file("in"))
  }

  @Test("a change beyond float32, or too small for it, is refused, and nothing is written", arguments: [1e60, 1e-300])
  func beyondFloats(_ alpha: Double) throws {
    let file = try scaled(alpha)
    let error = #expect(throws: NibbleError.self) {
      try AdapterResizing(file, rank: 1).write(to: folder.file("out"), force: false)
    }
    #expect(error?.kind == .quality && error?.message.contains("'layer'") == true)
    #expect(folder.contents == ["in"])
  }

  @Test("what float32 takes of a change is part of the reported error")
  func coarse() throws {
    let file = try scaled(1e-41)
    let report = try AdapterResizing(file, rank: 2).write(to: folder.file("out"), force: false)
    let new = try AdapterFile.open(folder.file("out"))
    let found = distance(try delta(file.modules[0]), try delta(new.modules[0]))
    #expect(report.error > 0.001 && abs(report.error - found) < 0.01 * report.error)
  }

  // MARK: - Extracting

  /// A base with the adapter merged into it.
  func merged(_ adapter: String, into base: String, as name: String) throws -> Checkpoint {
    try merged(MergeTests.adapter(adapter), into: Checkpoint.open(base), as: name)
  }

  func merged(_ adapter: AdapterFile, into base: Checkpoint, as name: String) throws -> Checkpoint {
    let spec = try OutputSpec(path: folder.file(name), format: nil, default: .safetensors)
    _ = try StreamJob.merge(base, MergeOptions([.init(adapter)]), to: spec).run()
    return try Checkpoint.open(spec.path)
  }

  @Test(
    "what any adapter made of a model comes out of it, and merged again is that model",
    arguments: MergeTests.cases)
  func roundTrip(_ adapter: String, _ base: String) throws {
    let plain = try Checkpoint.open(fixture("models/" + base))
    let tuned = try merged(adapter, into: plain.path, as: "tuned")
    // DoRA's changes have full rank, those of LoRA 8 at most.
    let rank = adapter.contains("dora") ? 96 : 8
    if adapter == "resnet_conv_dora" {
      // Convolutions take no factors here, and nothing else differs.
      #expect(throws: NibbleError.self) { try AdapterExtraction(base: plain, tuned: tuned, .init(rank: 2)).report() }
      return
    }
    let report = try AdapterExtraction(base: plain, tuned: tuned, .init(rank: rank)).write(to: folder.file("out"), force: false)
    #expect(report.error < 2e-5, "\(report.error)")
    let found = try AdapterFile.open(folder.file("out"))
    #expect(found.modules.count == report.modules.count && found.warnings.isEmpty)
    let again = try merged(found, into: plain, as: "again")
    for (x, y) in zip(tuned.tensors, again.tensors) {
      #expect(x.name == y.name)
      for (a, b) in zip(try values(x), try values(y)) { #expect(abs(a - b) < 2e-6, "\(x.name)") }
    }
  }

  @Test("the factors are nearly the best there are, the error is that of the written ones", arguments: [4, 12])
  func nearlyBest(_ rank: Int) throws {
    let (rows, columns) = (96, 160)
    let base = try layer("base", rows, columns, seed: 1), tuned = try layer("tuned", rows, columns, seed: 2)
    let report = try AdapterExtraction(base: base, tuned: tuned, .init(rank: rank)).write(to: folder.file("out"), force: false)
    let reported = try #require(report.modules.first)
    let change = zip(try values(tuned.tensors[0]), try values(base.tensors[0])).map { Double($0) - Double($1) }
    // Its transpose has the same singular values.
    let s = try LAPACK.svd(change, rows: columns, columns: rows).s
    let all = s.reduce(0) { $0 + $1 * $1 }, best = s.prefix(rank).reduce(0) { $0 + $1 * $1 } / all
    #expect(reported.energy <= best + 1e-6 && reported.energy > best - 1e-3)
    let found = try #require(try AdapterFile.open(folder.file("out")).modules.first)
    #expect(abs(reported.error - distance(change, try delta(found))) < 1e-5)
    #expect(abs(reported.norm - all.squareRoot()) < 1e-5 * reported.norm)
  }

  @Test("a rank beyond a matrix's own is its own")
  func ownRank() throws {
    let base = try layer("base", 24, 40, seed: 1), tuned = try layer("tuned", 24, 40, seed: 2)
    let report = try AdapterExtraction(base: base, tuned: tuned, .init(rank: 60_000)).write(to: folder.file("out"), force: false)
    #expect(report.modules.map(\.rank) == [24] && report.error < 1e-5)
    #expect(try AdapterFile.open(folder.file("out")).modules.map(\.rank) == [24])
  }

  func layer(_ name: String, _ rows: Int, _ columns: Int, seed: UInt64, _ more: (inout SafetensorsBuilder) -> Void = { _ in })
    throws
    -> Checkpoint
  {
    var model = SafetensorsBuilder()
    model.add(random: "layer.weight", [rows, columns], seed: seed)
    more(&model)
    return try Checkpoint.open(folder.write(name + ".safetensors", model.bytes))
  }

  @Test("a tuned model that ties its head gives an untied base both weights, each once")
  func tiedAfterwards() throws {
    let base = try Checkpoint.open(fixture("models/llama"))
    var model = SafetensorsBuilder()
    for tensor in base.tensors where tensor.name.text != "lm_head.weight" {
      model.add(tensor.name.text, tensor.shape, try values(tensor).map { $0 * 1.25 })
    }
    try folder.write("tied/model.safetensors", model.bytes)
    let config = try JSON.parse(bytes(of: fixture("models/llama/config.json")))
    try folder.write("tied/config.json", config.setting("tie_word_embeddings", to: .bool(true)).text())
    let tuned = try Checkpoint.open(folder.file("tied"))
    try AdapterExtraction(base: base, tuned: tuned, .init(rank: 64)).write(to: folder.file("out"), force: false)
    let again = try merged(AdapterFile.open(folder.file("out")), into: base, as: "again")
    for name in ["lm_head.weight", "model.embed_tokens.weight"] {
      let found = try values(#require(again.tensor(ByteName(name))))
      #expect(try found == values(#require(tuned.tensor(ByteName("model.embed_tokens.weight")))), "\(name)")
    }
  }

  @Test("packed models are taken by their values", arguments: ["llama-bnb-nf4-dq", "gpt2-bnb-nf4-dq"])
  func packed(_ name: String) throws {
    let plain = try Checkpoint.open(fixture(name.hasPrefix("llama") ? "models/llama" : "models/gpt2"))
    let packed = try Checkpoint.open(fixture("models/" + name))
    let report = try AdapterExtraction(base: packed, tuned: plain, .init(rank: 200)).write(to: folder.file("out"), force: false)
    #expect(report.error < 2e-5 && !report.modules.isEmpty)
    // The codes and what rounding took from them are the model as it was.
    let spec = try OutputSpec(path: folder.file("values"), format: nil, default: .safetensors)
    _ = try StreamJob.dequantize(packed, dtype: .f32, to: spec).run()
    let again = try merged(AdapterFile.open(folder.file("out")), into: Checkpoint.open(spec.path), as: "again")
    for reported in report.modules {
      let weight = ByteName(reported.path + ".weight")
      let (x, y) = (try #require(plain.tensor(weight)), try #require(again.tensor(weight)))
      for (a, b) in zip(try values(x), try values(y)) { #expect(abs(a - b) < 1e-5, "\(reported.path)") }
    }
  }

  @Test("the same with any number of threads, and with the same seed")
  func threads() throws {
    let base = try layer("base", 700, 1100, seed: 1), tuned = try layer("tuned", 700, 1100, seed: 2)
    for (name, threads, seed) in [("a", 1, 0), ("b", 3, 0), ("c", 2, 9)] as [(String, Int, UInt64)] {
      var options = AdapterExtraction.Options(rank: 4)
      (options.threads, options.seed) = (threads, seed)
      try AdapterExtraction(base: base, tuned: tuned, options).write(to: folder.file(name), force: false)
    }
    let files = try ["a", "b", "c"].map { try bytes(of: folder.file($0 + "/adapter_model.safetensors")) }
    #expect(files[0] == files[1] && files[0] != files[2])
  }

  @Test("what takes no factors is saved whole, left behind with its number, or refused")
  func others() throws {
    let base = try layer("base", 32, 32, seed: 1) { $0.add("norm.weight", [4], [1, 1, 1, 1]) }
    let tuned = try layer("tuned", 32, 32, seed: 2) { $0.add("norm.weight", [4], [1, 1, 2, 1]) }
    var options = AdapterExtraction.Options(rank: 2)
    let saved = try AdapterExtraction(base: base, tuned: tuned, options).write(to: folder.file("saved"), force: false)
    #expect(saved.whole.map(\.name) == ["norm.weight"] && abs((saved.whole[0].change ?? 0) - 0.5) < 1e-6)
    let file = try AdapterFile.open(folder.file("saved"))
    #expect(file.replacements.map(\.name) == ["norm.weight"] && file.config.modulesToSave == ["norm"])
    options.others = .leave
    let left = try AdapterExtraction(base: base, tuned: tuned, options).write(to: folder.file("left"), force: false)
    #expect(left.left.map(\.name) == ["norm.weight"] && left.whole.isEmpty)
    #expect(try AdapterFile.open(folder.file("left")).replacements.isEmpty)
    options.others = .refuse
    let error = #expect(throws: NibbleError.self) {
      try AdapterExtraction(base: base, tuned: tuned, options).write(to: folder.file("none"), force: false)
    }
    #expect(
      error?.kind == .quality && error?.message.contains("norm.weight") == true && PathKind(folder.file("none")) == .nothing)
  }

  @Test("a parameter that was all zeros is no infinite share of its length away")
  func fromZeros() throws {
    let base = try layer("base", 32, 32, seed: 1) { $0.add("layer.bias", [2], [0, 0]) }
    let tuned = try layer("tuned", 32, 32, seed: 2) { $0.add("layer.bias", [2], [0, 1]) }
    var options = AdapterExtraction.Options(rank: 2)
    options.others = .refuse
    let error = #expect(throws: NibbleError.self) { try AdapterExtraction(base: base, tuned: tuned, options).report() }
    #expect(error?.message.contains("'layer.bias', where the base has zeros;") == true, "\(error?.message ?? "")")
  }

  @Test("pairs that make no sense are refused, and nothing is written")
  func refused() throws {
    let base = try layer("base", 32, 32, seed: 1)
    func refuse(_ kind: NibbleError.Kind, _ tuned: Checkpoint, _ change: (inout AdapterExtraction.Options) -> Void = { _ in })
      throws
    {
      var options = AdapterExtraction.Options(rank: 2)
      change(&options)
      let error = #expect(throws: NibbleError.self) {
        try AdapterExtraction(base: base, tuned: tuned, options).write(to: folder.file("none"), force: false)
      }
      #expect(error?.kind == kind, "\(error?.message ?? "")")
    }
    try refuse(.usage, base)
    try refuse(.adapterMismatch, layer("wide", 32, 48, seed: 2))
    try refuse(.adapterMismatch, layer("more", 32, 32, seed: 2) { $0.add(random: "other.weight", [4, 4]) })
    try refuse(.quality, layer("poor", 32, 32, seed: 2)) { $0.minimumEnergy = 0.99 }
    try refuse(.usage, layer("none", 32, 32, seed: 2)) { $0.targets = "q_proj" }
    try refuse(.usage, layer("rank", 32, 32, seed: 2)) { $0.rank = 0 }
    var broken = SafetensorsBuilder()
    broken.add("layer.weight", [32, 32], [Float](repeating: .nan, count: 1024))
    try refuse(.quality, Checkpoint.open(folder.write("nan.safetensors", broken.bytes)))
    #expect(PathKind(folder.file("none")) == .nothing)
  }
}
