import Foundation
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Adapters outside a model")
struct OperationsTests {
  let folder = TemporaryFolder()

  @Test(
    "combined keep the sum of their deltas, whatever they adapt",
    arguments: [
      [("dec_lora_qv", 0.5), ("dec_rslora", -1.25)], [("dec_all_linear_patterns", 1.5), ("dec_lora_qv", 1)],
      [("dec_embedding", 0.5), ("dec_lora_qv", 2)],
    ])
  func cat(_ names: [(String, Double)]) throws {
    let adapters = try names.map { MergeOptions.Weighted(try MergeTests.adapter($0.0), weight: $0.1) }
    let report = try AdapterCombination(MergeOptions(adapters)).write(to: folder.file("all"), force: false)
    let combined = try AdapterFile.open(folder.file("all"))
    #expect(report.worstError == 0 && combined.warnings.isEmpty)
    #expect(combined.modules.count == Set(adapters.flatMap { $0.adapter.modules.map(\.path) }).count)
    for module in combined.modules {
      let found = try delta(module)
      var wanted = [Double](repeating: 0, count: found.count)
      for one in adapters {
        for part in one.adapter.modules where part.path == module.path {
          for (i, value) in try delta(part).enumerated() { wanted[i] += one.weight * value }
        }
      }
      for (x, y) in zip(found, wanted) { #expect(abs(x - y) < 1e-6) }
    }
  }

  @Test("combined at the rank of their sum lose nothing, at a lower one as much as is said", arguments: [12, 3])
  func svd(_ rank: Int) throws {
    var options = MergeOptions(
      try ["dec_lora_qv", "dec_rslora"].map { MergeOptions.Weighted(try MergeTests.adapter($0), weight: 1) })
    try AdapterCombination(options).write(to: folder.file("exact"), force: false)
    options.method = .svd
    options.svdRank = rank
    let report = try AdapterCombination(options).write(to: folder.file("cut"), force: false)
    let exact = try AdapterFile.open(folder.file("exact")), cut = try AdapterFile.open(folder.file("cut"))
    var worst = 0.0
    for (x, y) in zip(exact.modules, cut.modules) {
      #expect(y.rank == rank && y.scale == 1)
      let a = try delta(x), b = try delta(y)
      let error = zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }
      worst = max(worst, (error / a.reduce(0) { $0 + $1 * $1 }).squareRoot())
    }
    #expect(abs(worst - report.worstError) < 1e-5)
    #expect((worst > 0.1) == (rank == 3))
  }

  @Test("combined at random are PEFT's where its random numbers are used", arguments: ["dare_linear", "dare_ties"])
  func dare(_ name: String) throws {
    let file = try TensorFile(fixture("combine.safetensors"))
    func floats(_ name: String) throws -> [Float] { try file.floats(#require(file.tensor(name))) }
    let combination = FactorCombination(.random, election: name == "dare_ties" ? .total : nil, density: 0.7)
    let roots = [0.7 * 2, 0.4 * 4].map { $0.squareRoot() }
    var mask = 0
    for module in ["0.self_attn.q_proj", "0.self_attn.v_proj", "1.self_attn.q_proj", "1.self_attn.v_proj"] {
      for factor in ["lora_A", "lora_B"] {
        let own = "base_model.model.model.layers.\(module).\(factor).weight"
        let masks = try [mask, mask + 1].map { try floats("\(name)/mask.\(String(format: "%03d", $0))") }
        mask += 2
        let found = combination.combine(try ["in.a0/", "in.a1/"].map { try floats($0 + own) }, roots) { tensor in
          { masks[tensor][$0] != 0 }
        }
        for (x, y) in zip(found, try floats("\(name)/\(own)")) { #expect(abs(x - y) < 1e-6) }
      }
    }
  }

  @Test("combined at random keep the share asked for, the same with the same seed, and on the average lose nothing")
  func chance() {
    let ones = [[Float](repeating: 1, count: 20_000), [Float](repeating: 2, count: 20_000)]
    func combined(_ seed: UInt64) -> [Float] {
      FactorCombination(.random, density: 0.3, seed: seed).combine(ones, [1, 0.5], named: "layer")
    }
    let found = combined(7)
    #expect(found == combined(7) && found != combined(8))
    #expect(abs(Double(found.filter { $0 == 0 }.count) / 20_000 - 0.49) < 0.02)
    #expect(abs(found.reduce(0, +) / 20_000 - 2) < 0.05)
  }

  @Test("that cannot be combined are refused, and nothing is written")
  func refused() throws {
    func combine(_ names: [String], _ method: MergeOptions.Method) throws {
      var options = MergeOptions(try names.map { MergeOptions.Weighted(try MergeTests.adapter($0)) })
      options.method = method
      try AdapterCombination(options).write(to: folder.file("none"), force: false)
    }
    #expect(throws: NibbleError.self) { try combine(["dec_dora", "dec_lora_qv"], .svd) }
    #expect(throws: NibbleError.self) { try combine(["roberta_cls"], .cat) }
    #expect(throws: NibbleError.self) { try combine(["dec_rslora", "dec_lora_qv"], .linear) }
    #expect(throws: NibbleError.self) { try combine([], .cat) }
    #expect(throws: NibbleError.self) { try combine(["dec_lora_qv", "dec_lora_qv"], .ties) }
    #expect(throws: NibbleError.self) { try combine(["dec_lora_qv"], .magnitudePrune) }
    #expect(PathKind(folder.file("none")) == .nothing)
  }

  @Test("inspected show the norm of each change, and the rank it makes use of")
  func inspected() throws {
    let file = try MergeTests.adapter("dec_lora_qv")
    let found = try AdapterInspection(file)
    #expect(found.modules.count == file.modules.count && found.coverage.isEmpty)
    for (module, own) in zip(found.modules, file.modules) {
      let norm = try delta(own).reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(abs(module.norm - norm) < 1e-6 * norm)
      #expect(module.effectiveRank > 1 && module.effectiveRank <= Double(module.rank))
      #expect(module.rounding == nil && !module.isDead)
    }
  }

  /// An adapter of one layer whose change is known.
  func known(_ a: [Float], _ b: [Float], name: String = "adapter", binding: String? = nil) throws -> AdapterFile {
    let rank = a.count / 64
    var factors = SafetensorsBuilder()
    factors.add("base_model.model.layer.lora_A.weight", [rank, 64], a)
    factors.add("base_model.model.layer.lora_B.weight", [64, rank], b)
    if let binding { factors.metadata = [("nibble_adapter", binding)] }
    _ = try folder.write(name + "/adapter_model.safetensors", factors.bytes)
    _ = try folder.write(
      name + "/adapter_config.json",
      #"{"peft_type": "LORA", "r": \#(rank), "lora_alpha": \#(rank), "target_modules": ["layer"]}"#)
    return try AdapterFile.open(folder.file(name))
  }

  @Test("have the effective rank of their singular values", arguments: [[Float(1), 1, 1], [1, 0, 0], [4, 2, 2], [0, 0, 0]])
  func effectiveRank(_ sizes: [Float]) throws {
    var a = [Float](repeating: 0, count: 3 * 64), b = a
    for (k, size) in sizes.enumerated() {
      a[k * 64 + 5 * k] = 1
      b[(7 * k + 1) * 3 + k] = size
    }
    let found = try AdapterInspection(known(a, b)).modules[0]
    let sum = Double(sizes.reduce(0, +))
    let entropy = sizes.map { Double($0) / sum }.reduce(0) { $1 > 0 ? $0 - $1 * log($1) : $0 }
    #expect(abs(found.effectiveRank - (sum == 0 ? 0 : exp(entropy))) < 1e-6)
    #expect(found.isDead == (sum == 0))
  }

  @Test("inspected beside a base show what merging into 4 bits would report", arguments: ["llama", "llama-bnb-nf4-dq"])
  func beside(_ name: String) throws {
    let base = try Checkpoint.open(fixture("models/" + name))
    let file = try MergeTests.adapter("dec_layers_to_transform")
    let found = try AdapterInspection(file, base: base)
    var options = MergeOptions([.init(file)])
    options.minimumSurvival = 0
    let report = try StreamJob.merge(base, options, to: OutputSpec(path: folder.file("out.nbl"), format: nil, default: .nbl)).run()
    for changed in report.changed {
      let module = try #require(found.modules.first { $0.path + ".weight" == changed.name })
      #expect(abs((module.rounding?.survival ?? 0) - changed.sums.survival) < 1e-9)
    }
    let covered = found.coverage.first { $0.name == "o_proj" }
    #expect(covered?.adapted == 1 && covered?.count == 2)
    #expect(found.coverage.first { $0.name == "gate_proj" }?.adapted == 0)
  }

  // MARK: - What an adapter was trained on

  func layer(_ name: String, seed: UInt64 = 1) throws -> Checkpoint {
    var model = SafetensorsBuilder()
    model.add(random: "layer.weight", [64, 64], seed: seed)
    return try Checkpoint.open(folder.write(name, model.bytes))
  }

  func packed(_ base: Checkpoint, _ name: String) throws -> Checkpoint {
    _ = try StreamJob.quantize(base, QuantizeOptions(), to: OutputSpec(path: folder.file(name), format: nil, default: .nbl)).run()
    return try Checkpoint.open(folder.file(name))
  }

  @Test("know the base they were trained on, its 4-bit form, and strangers")
  func bound() throws {
    let plain = try layer("base.safetensors"), stranger = try layer("other.safetensors", seed: 9)
    let four = try packed(plain, "base.nbl")
    let ones = [Float](repeating: 1, count: 64)
    let free = try known(ones, ones)
    for base in [plain, four, stranger] { #expect(try BaseMatch(base, [free]).trainedOn == nil) }

    let (p, q) = (try plain.hash(), try #require(four.claimedIdentity))
    let onFour = try known(
      ones, ones, name: "four", binding: #"{"base": "\#(q)", "source": "\#(p)", "trained_on": "nf4:block=64"}"#)
    #expect(try BaseMatch(four, [onFour]).trainedOn == nil)
    let match = try BaseMatch(plain, [onFour])
    #expect(match.trainedOn == "nf4:block=64")
    try match.check(
      plain.packedForm(QuantizeOptions(trainedOn: "nf4"), beside: folder.file("out"), threads: 1), of: plain, anyBase: false)
    let other = try plain.packedForm(QuantizeOptions(trainedOn: "nf4:block=128"), beside: folder.file("out"), threads: 1)
    #expect(throws: NibbleError.self) { try match.check(other, of: plain, anyBase: false) }

    let asked = try BaseMatch(plain, [onFour], trainedOn: "original")
    #expect(asked.trainedOn == nil && asked.warnings.map(\.category) == [.identity])
    #expect(throws: NibbleError.self) { try BaseMatch(four, [onFour], trainedOn: "original") }
    #expect(throws: NibbleError.self) { try BaseMatch(stranger, [onFour], trainedOn: "original") }

    let onPlain = try known(ones, ones, name: "plain", binding: #"{"base": "\#(p)"}"#)
    #expect(try BaseMatch(plain, [onPlain]).warnings.isEmpty)
    #expect(try BaseMatch(four, [onPlain]).warnings.map(\.path) == [onPlain.path])
    for adapter in [onFour, onPlain] {
      let error = #expect(throws: NibbleError.self) { try BaseMatch(stranger, [adapter]) }
      #expect(error?.kind == .adapterMismatch && error?.path == adapter.path)
      #expect(try BaseMatch(stranger, [adapter], anyBase: true).warnings.map(\.path) == [adapter.path])
    }
    #expect(throws: NibbleError.self) { try known(ones, ones, name: "broken", binding: "{}") }
  }

  @Test("combined keep what they were trained on, and are not mixed with others of another base")
  func combinedBinding() throws {
    let ones = [Float](repeating: 1, count: 64)
    let (p, q) = (String(repeating: "1", count: 32), String(repeating: "2", count: 32))
    let a = try known(ones, ones, name: "a", binding: #"{"base": "\#(p)"}"#)
    let b = try known(ones, ones, name: "b", binding: #"{"base": "\#(p)"}"#)
    let c = try known(ones, ones, name: "c", binding: #"{"base": "\#(q)"}"#)
    try AdapterCombination(MergeOptions([.init(a), .init(b)])).write(to: folder.file("ab"), force: false)
    #expect(try AdapterFile.open(folder.file("ab")).binding == a.binding)
    #expect(throws: NibbleError.self) { try AdapterCombination(MergeOptions([.init(a), .init(c)])) }
    #expect(throws: Never.self) { try AdapterCombination(MergeOptions([.init(a), .init(c)]), anyBase: true) }
  }

  @Test("say where their configuration and their tensors differ")
  func targets() throws {
    var model = SafetensorsBuilder()
    for name in ["layers.0.layer", "layers.1.layer", "layers.2.layer"] { model.add(random: name + ".weight", [64, 64]) }
    let base = try Checkpoint.open(folder.write("base.safetensors", model.bytes))
    var factors = SafetensorsBuilder()
    for layer in [0, 1] {
      factors.add("base_model.model.layers.\(layer).layer.lora_A.weight", [1, 64], [Float](repeating: 1, count: 64))
      factors.add("base_model.model.layers.\(layer).layer.lora_B.weight", [64, 1], [Float](repeating: 1, count: 64))
    }
    _ = try folder.write("adapter/adapter_model.safetensors", factors.bytes)
    func warnings(_ targets: String) throws -> [Warning] {
      try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 1, \#(targets)}"#)
      return try AdapterFile.open(folder.file("adapter")).targetWarnings(base)
    }
    #expect(try warnings(#""target_modules": ["layer"], "layers_to_transform": [0, 1]"#) == [])
    #expect(try warnings(#""target_modules": "layers\\.[01]\\.layer""#) == [])
    #expect(try warnings(#""target_modules": null"#) == [])
    #expect(try warnings(#""target_modules": ["layer"], "exclude_modules": "layers.2.*""#) == [])
    #expect(try warnings(#""target_modules": ["layer"]"#).first?.message.contains("names 1 modules") == true)
    #expect(try warnings(#""target_modules": ["layer"], "layers_to_transform": 0"#).first?.message.contains("1 of 2") == true)
    #expect(throws: NibbleError.self) { try warnings(#""target_modules": "(""#) }
  }
}
