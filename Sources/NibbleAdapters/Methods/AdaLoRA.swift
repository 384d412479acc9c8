import NibbleCompute
import NibbleCore

/// AdaLoRA, arXiv:2303.10512: scale · B · diag(E) · A, from which training takes what matters least. Whatever is left, the scale is
/// alpha / (the rank at the beginning + 1e-5), as in PEFT.
package struct AdaLoRA: AdapterMethod {
  package static let values = "lora_E"

  package static let name = "AdaLoRA"
  package static let kind = "ADALORA"
  package static let keys = LoRA.keys
  package static let settings = [
    MethodSetting(target, standard: 8, 0...1_048_576), MethodSetting(first, standard: 0, 0...1_000_000_000), MethodSetting(last, standard: 0, 0...1_000_000_000),
    MethodSetting(interval, standard: 1, 1...1_000_000_000), MethodSetting(smoothing, standard: 0.85, real: 0...1),
    MethodSetting(uncertainty, standard: 0.85, real: 0...1), MethodSetting(orthogonality, standard: 0.5, real: 0...1e6),
    // 0 for the steps of the run.
    MethodSetting(total, standard: 0, 0...1_000_000_000),
  ]
  package static let rankKey: String? = "init_r"
  package static let standardRank = 12
  package static let hasPatterns = false
  package static let folds = true
  package static let parts = [
    MethodPart(LoRA.first, suffixes: [".lora_A"], isFactor: true) { [$0.rank, $0.inputs ?? 0] },
    MethodPart(values, suffixes: [".lora_E"]) { [$0.rank, 1] },
    MethodPart(LoRA.second, suffixes: [".lora_B"], isFactor: true, isSecond: true) { [$0.outputs ?? 0, $0.rank] },
  ]

  package static func refusal(_ config: JSON) -> MessageText? {
    if let pattern = config["alpha_pattern"], pattern != .null, pattern != .object([]) { return "\(key: "alpha_pattern"): AdaLoRA has none" }
    return LoRA.refusal(config)
  }

  /// Whatever is left of a module, by the rank all began with.
  package static func scale(alpha: Double, rank: Int, common: Int, isStabilized: Bool) -> Double {
    (alpha > 0 ? alpha : Double(common)) / (Double(common) + 1e-5)
  }

  /// What is kept of a module: a list of true and false under the name of its `lora_E`.
  package static func rankPattern(_ name: String, _ value: JSON) -> (name: String, rank: Double)? {
    guard let mask = value.array?.map(\.bool), mask.allSatisfy({ $0 != nil }), name.hasSuffix("." + values) else { return nil }
    return (String(name.dropLast(values.utf8.count + 1)).replacing(".", with: "\\."), Double(mask.filter { $0 == true }.count))
  }

  /// Nothing may be left of a module.
  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let a = parts[LoRA.first], let b = parts[LoRA.second], a.count == 2, b.count == 2, a[0] == b[1], !isEmbedding else { return nil }
    return ModuleShape(input: [a[1]], outputs: b[0], rank: a[0], settings: settings)
  }

  /// PEFT's: normal factors of deviation 0.02, and E of zeros.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [
      LoRA.first: layer.normal([layer.rank, layer.inputs], deviation: 0.02, 0), values: [Float](repeating: 0, count: layer.rank),
      LoRA.second: layer.normal([layer.outputs, layer.rank], deviation: 0.02, 1),
    ]
  }

  private let factors: LowRankPair?
  private let e: FloatStore
  private let folded: FoldedPair?

  package init?(_ numbers: MethodNumbers) {
    guard let e = numbers.values[Self.values] else { return nil }
    self.e = e
    guard e.count > 0 else {
      (factors, folded) = (nil, nil)
      return
    }
    guard let a = numbers.matrices[LoRA.first], let b = numbers.matrices[LoRA.second], a.outputs == e.count else { return nil }
    factors = LowRankPair(a: a, b: b, scale: numbers.scale)
    folded = FoldedPair(rank: e.count, inputs: a.inputs, outputs: b.outputs, scale: numbers.scale)
    fold()
  }

  package var pair: LowRankPair? { folded?.pair }

  package func fold() {
    guard let factors, let folded else { return }
    factors.a.rows(0..<e.count, into: folded.a.start)
    factors.b.rows(0..<factors.b.outputs, into: folded.b.start)
    for k in 0..<e.count { for i in 0..<factors.a.inputs { folded.a.start[k * factors.a.inputs + i] *= e.start[k] } }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    guard let factors else { return }
    let (rank, inputs) = (e.count, factors.a.inputs)
    if let own = gradients[LoRA.second] { LayerKernels.add(pair.b, count: factors.b.outputs * rank, to: own.start) }
    let row = FloatStore(count: inputs)
    for k in 0..<rank {
      if let own = gradients[LoRA.first] {
        LayerKernels.add(pair.a + k * inputs, scaledBy: e.start[k], count: inputs, to: own.start + k * inputs)
      }
      guard let own = gradients[Self.values] else { continue }
      factors.a.rows(k..<k + 1, into: row.start)
      own.start[k] += Float((0..<inputs).reduce(0.0) { $0 + Double(pair.a[k * inputs + $1] * row.start[$1]) })
    }
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
}
