import NibbleCompute
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@testable import NibbleAdapters

/// The papers' own numbers, computed in float64 from their equations.
@Suite("Golden vectors of AdaLoRA, Delta-LoRA and starts")
struct FieldGoldenTests {
  private let engine = Engine(.f32, team: Team(threads: 1))
  private let golden: TensorFile

  init() throws { golden = try TensorFile(fixture("field_methods.safetensors")) }

  private func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor(name), "\(name)")) }

  private func matrix(_ name: String) throws -> Matrix {
    let shape = try #require(golden.tensor(name), "\(name)").shape
    return Matrix(try floats(name), rows: shape[0], columns: shape[1])
  }

  private func expect(_ found: some Sequence<Float>, _ name: String) throws {
    let expected = try floats(name), found = Array(found)
    #expect(found.count == expected.count, "\(name)")
    for (x, y) in zip(found, expected) { #expect(abs(x - y) <= 1e-6 + 1e-5 * abs(y), "\(name): \(x), \(y)") }
  }

  /// W + the pair's product.
  private func sum(_ weight: String, _ pairs: LowRankPair...) throws -> [Float] {
    let store = FloatStore(try floats(weight))
    for pair in pairs { pair.add(to: store, engine.team) }
    return withExtendedLifetime(store) { Array(store.values) }
  }

  // MARK: AdaLoRA

  @Test("AdaLoRA: outputs, gradients, merge")
  func adalora() throws {
    let scale = AdaLoRA.scale(alpha: 8, rank: 4, common: 4, isStabilized: false)
    #expect(abs(scale - 1.9999950000125002) < 1e-12)
    let method = try #require(
      AdaLoRA(
        MethodNumbers(
          matrices: ["lora_A": try matrix("adalora/lora_A"), "lora_B": try matrix("adalora/lora_B")],
          values: [AdaLoRA.values: FloatStore(try floats("adalora/lora_E"))], scale: scale, engine)))
    let pair = try #require(method.pair), weight = try matrix("adalora/W")
    let x = FloatStore(try floats("adalora/x")), dy = FloatStore(try floats("adalora/dy")), out = FloatStore(count: 5 * 10)
    let parts = ["lora_A": "dA", AdaLoRA.values: "dE", "lora_B": "dB"]
    let gradients = try parts.mapValues { FloatStore([Float](repeating: 0, count: try floats("adalora/" + $0).count)) }
    try withExtendedLifetime((x, dy)) {
      engine.multiply(x.start, rows: 5, stride: 14, [.init(weight, out.start, stride: 10)])
      let pass = PairPass(pair, rows: 5, engine, Scratch())
      pass.add(x.start, to: out.start, stride: 10)
      try expect(out.values, "adalora/y")
      pass.backward(dy.start, stride: 10, x.start, of: method, gradients)
    }
    for (part, name) in parts { try expect(try #require(gradients[part]).values, "adalora/" + name) }
    try expect(try sum("adalora/W", pair), "adalora/W_merged")
  }

  /// A module with numbers and gradients of its own.
  private func module(_ index: Int, _ settings: MethodSettings, _ values: [String: ([Int], [Float], [Float])]) -> RuledModule {
    RuledModule(
      parts: Dictionary(uniqueKeysWithValues: values.map { name, own in
        (name, RuledModule.Part(name: "\(index).\(name)", shape: own.0, values: FloatStore(own.1), gradient: FloatStore(own.2)))
      }), settings: settings)
  }

  @Test("AdaLoRA: what keeps factors orthogonal, importance, and what is taken away first")
  func importance() throws {
    let shapes = [("lora_A", [4, 14], "dA"), (AdaLoRA.values, [4, 1], "dE"), ("lora_B", [10, 4], "dB")]
    // Half of the four ranks go at the first step.
    let settings: MethodSettings = ["target_r": 2, "total_step": 3, "tfinal": 1, "beta1": 0.85, "beta2": 0.85, "deltaT": 1, "orth_reg_weight": 0.5]
    func values(_ gradients: Bool) throws -> RuledModule {
      try module(0, settings, Dictionary(uniqueKeysWithValues: shapes.map { name, shape, gradient in
        let own = try floats("adalora/" + name)
        return (name, (shape, own, gradients ? try floats("adalora/" + gradient) : own.map { _ in 0 }))
      }))
    }
    // The case adds what PEFT takes the mean of: A's norm and B's.
    let loss = try #require(try AdaLoRA.rule([values(false)], steps: 3)).addLoss()
    try expect([Float(2 * loss)], "adalora/orth_reg")
    let own = try values(true), rule = try #require(try AdaLoRA.rule([own], steps: 3))
    rule.stepped(1)
    let state = Dictionary(uniqueKeysWithValues: rule.state.map { ($0.name, $0.values) })
    func score(_ part: String, _ place: Int) -> Double {
      Double(state["sensitivity/0." + part]?.start[place] ?? .nan) * Double(state["uncertainty/0." + part]?.start[place] ?? .nan)
    }
    try expect(
      (0..<4).map { k in
        Float(
          score(AdaLoRA.values, k) + (0..<14).reduce(0) { $0 + score("lora_A", 14 * k + $1) } / 14
            + (0..<10).reduce(0) { $0 + score("lora_B", 4 * $1 + k) } / 10)
      }, "adalora/triplet_score")
    try expect(try #require(own.parts[AdaLoRA.values]).values.values, "adalora/E_pruned")
  }

  @Test("AdaLoRA: the budget of 100 steps")
  func budget() throws {
    let settings: MethodSettings = ["target_r": 2, "total_step": 100, "tinit": 10, "tfinal": 20, "deltaT": 1, "beta1": 0.85, "beta2": 0.85]
    let random = CountedRandom(seed: 1)
    func drawn(_ index: Int, _ count: Int) -> [Float] { (0..<count).map { Float(random.normal(UInt64(index * 1000 + $0))) } }
    let modules = (0..<6).map { index in
      module(index, settings, [
        "lora_A": ([4, 3], drawn(6 * index, 12), drawn(6 * index + 1, 12)), AdaLoRA.values: ([4, 1], drawn(6 * index + 2, 4), drawn(6 * index + 3, 4)),
        "lora_B": ([2, 4], drawn(6 * index + 4, 8), drawn(6 * index + 5, 8)),
      ])
    }
    let rule = try #require(try AdaLoRA.rule(modules, steps: 100))
    let expected = try golden.integers(#require(golden.tensor("adalora/budget")))
    for step in 1...100 {
      for one in modules { one.parts[AdaLoRA.values]?.values.values.update(repeating: 1) }
      rule.stepped(step)
      let left = modules.reduce(0) { sum, one in sum + (one.parts[AdaLoRA.values]?.values.values.count { $0 != 0 } ?? 0) }
      #expect(left == expected[step], "step \(step)")
    }
  }

  // MARK: Delta-LoRA

  @Test("Delta-LoRA: what one step moves the weight by")
  func deltaLoRA() throws {
    let method = try #require(
      DeltaLoRA(
        MethodNumbers(
          matrices: [
            "lora_A": try matrix("delta_lora/A_next"), "lora_B": try matrix("delta_lora/B_next"), "kept_A": try matrix("delta_lora/lora_A"),
            "kept_B": try matrix("delta_lora/lora_B"),
          ], scale: 4, settings: ["delta_lambda": 2], engine)))
    // Beside the weight that moved there is the pair itself. Both are far greater than what is left.
    let pair = LowRankPair(a: try matrix("delta_lora/A_next"), b: try matrix("delta_lora/B_next"), scale: -4)
    let found = try sum("delta_lora/W", #require(method.pair), pair)
    for (x, y) in zip(found, try floats("delta_lora/W_delta_lora")) { #expect(abs(x - y) <= 1e-5 + 1e-5 * abs(y), "\(x), \(y)") }
  }

  // MARK: Starts

  private func product(_ pair: (a: [Float], b: [Float]), rank: Int) throws -> [Float] {
    let store = FloatStore([Float](repeating: 0, count: 24 * 64))
    let width = pair.b.count / 24
    let b = (0..<24).flatMap { pair.b[$0 * width..<$0 * width + rank] }
    LowRankPair(a: Matrix(Array(pair.a.prefix(rank * 64)), rows: rank, columns: 64), b: Matrix(b, rows: 24, columns: rank), scale: 1).add(to: store, engine.team)
    return Array(store.values)
  }

  @Test("PiSSA: the part of the weight that is trained, and what stays")
  func pissa() throws {
    let weight = try matrix("svd_inits/W"), new = NewModule(weight, rank: 4, .pissa(steps: nil), CountedRandom(seed: 0), engine)
    let pair = try #require(try FactorStart.pissa(steps: nil).factors(new))
    let found = try product(pair, rank: 4)
    try expect(found, "svd_inits/pissa_product")
    try expect(zip(try floats("svd_inits/W"), found).map { $0 - $1 }, "svd_inits/pissa_residual")
    // Beside the base as it is, the start changes nothing.
    #expect(try product(pair, rank: 8).allSatisfy { abs($0) < 1e-6 })
  }

  private func moments(_ second: [Float], _ mean: [Float]) -> InputMoments { InputMoments(second: FloatStore(second), mean: mean, inputs: mean.count) }

  @Test("CorDA: of inputs that are alike in every direction it takes what PiSSA takes, or the least of it; a scale shows in neither")
  func corda() throws {
    let like = (0..<64 * 64).map { Float($0 % 65 == 0 ? 3 : 0) }
    for (side, scale) in [(0, 1.0), (0, -2), (1, 1)] {
      var material = StartMaterial()
      (material.settings, material.inputs) = ([FactorStart.side.key: Double(side)], moments(like, [Float](repeating: 0, count: 64)))
      func factors(_ rank: Int) throws -> [Float] {
        let new = NewModule(try matrix("svd_inits/W"), rank: rank, scale: scale, .corda, CountedRandom(seed: 0), engine, material: material)
        return try product(#require(try FactorStart.corda.factors(new)), rank: rank).map { Float(scale) * $0 }
      }
      if side == 0 {
        try expect(factors(4), "svd_inits/pissa_product")
      } else {
        // All but the four greatest of 24.
        for (x, y) in zip(try factors(20), try floats("svd_inits/pissa_residual")) { #expect(abs(x - y) < 1e-6) }
      }
    }
  }

  @Test("EVA: directions by what they explain of the inputs about their mean")
  func directions() throws {
    // Variances 1, 9 and 4 about a mean that is far greater.
    let second: [Float] = [1, 0, 0, 0, 9, 0, 0, 0, 404]
    let found = try InputDirections(moments(second, [0, 0, 20]), count: 2, CountedRandom(seed: 0), engine.team)
    #expect(abs(found.shares[0] - 9.0 / 14) < 1e-5 && abs(found.shares[1] - 4.0 / 14) < 1e-5)
    let likeness: [Float] = [0, 1, 0, 0, 0, 1]
    for (x, y) in zip(found.first(2), likeness) { #expect(abs(abs(x) - y) < 1e-4) }
    #expect(found.first(1).count == 3)
  }
}
