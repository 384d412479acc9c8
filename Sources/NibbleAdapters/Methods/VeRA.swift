import NibbleCompute
import NibbleCore

/// VeRA, arXiv:2310.11454: z = x · Wᵀ + b∘((d∘(x · Aᵀ)) · Bᵀ). All modules share A and B, which are random and stay as they are; each
/// takes as many of their columns and rows as it has inputs and outputs. Files hold them, or the seed they are drawn with.
package struct VeRA: AdapterMethod {
  private static let a = "vera_A", b = "vera_B", forOutputs = "vera_lambda_b", forRanks = "vera_lambda_d"
  private static let seed = "projection_prng_key"

  package static let name = "VeRA"
  package static let kind = "VERA"
  package static let keys: Set<String> = ["vera_dropout", "init_weights", "save_projection"]
  package static let settings = [
    MethodSetting(seed, standard: 0, 0...4_294_967_295), MethodSetting("d_initial", standard: 0.1, real: -1e6...1e6),
  ]
  package static let standardRank = 256
  package static let onlyBias = "vera_only"
  package static let rankKey: String? = "r"
  package static let dropoutKey: String? = "vera_dropout"
  package static let folds = true
  package static let parts = [
    MethodPart(a, suffixes: ["base_model.vera_A"], sharing: .inputs) { [$0.rank, $0.inputs ?? 0] },
    MethodPart(b, suffixes: ["base_model.vera_B"], sharing: .outputs) { [$0.outputs ?? 0, $0.rank] },
    MethodPart(forOutputs, suffixes: [".vera_lambda_b"]) { [$0.outputs ?? 0] },
    MethodPart(forRanks, suffixes: [".vera_lambda_d"]) { [$0.rank] },
  ]

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let outputs = parts[forOutputs], let rank = parts[forRanks], outputs.count == 1, rank.count == 1, outputs[0] > 0, rank[0] > 0,
      !isEmbedding
    else { return nil }
    return ModuleShape(outputs: outputs[0], rank: rank[0], settings: settings)
  }

  /// Both from one stream, A first, uniform within ± √6 / √(numbers in a row): what PEFT draws with PyTorch's generator.
  package static func shared(rank: Int, inputs: Int, outputs: Int, settings: MethodSettings) -> [String: [Float]] {
    var random = MersenneTwister(seed: UInt32(clamping: Int(settings[seed] ?? 0)))
    func draw(_ count: Int, columns: Int, _ random: inout MersenneTwister) -> [Float] {
      let bound = 3.0.squareRoot() * (2.0.squareRoot() / Double(columns).squareRoot())
      return (0..<count).map { _ in random.uniform(from: Float(-bound), to: Float(bound)) }
    }
    let first = draw(rank * inputs, columns: inputs, &random)
    return [a: first, b: draw(outputs * rank, columns: rank, &random)]
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [
      forOutputs: [Float](repeating: 0, count: layer.outputs),
      forRanks: [Float](repeating: Float(layer.settings["d_initial"] ?? 0.1), count: layer.rank),
    ]
  }

  private let shared: LowRankPair
  private let lambdaB, lambdaD: FloatStore
  private let folded: FoldedPair
  private var rank: Int { lambdaD.count }
  private var outputs: Int { lambdaB.count }
  private let inputs: Int

  package init?(_ numbers: MethodNumbers) {
    guard let a = numbers.matrices[Self.a], let b = numbers.matrices[Self.b], let lambdaB = numbers.values[Self.forOutputs],
      let lambdaD = numbers.values[Self.forRanks], let inputs = numbers.inputs, a.inputs >= inputs, a.outputs >= lambdaD.count,
      b.outputs >= lambdaB.count, b.inputs == lambdaD.count
    else { return nil }
    (shared, self.lambdaB, self.lambdaD, self.inputs) = (LowRankPair(a: a, b: b, scale: 1), lambdaB, lambdaD, inputs)
    folded = FoldedPair(rank: lambdaD.count, inputs: inputs, outputs: lambdaB.count, scale: 1)
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  package func fold() {
    let row = FloatStore(count: shared.a.inputs)
    folded.a.values.update(repeating: 0)
    for k in 0..<rank {
      shared.a.rows(k..<k + 1, into: row.start)
      LayerKernels.add(row.start, scaledBy: lambdaD.start[k], count: inputs, to: folded.a.start + k * inputs)
    }
    shared.b.rows(0..<outputs, into: folded.b.start)
    for o in 0..<outputs { for k in 0..<rank { folded.b.start[o * rank + k] *= lambdaB.start[o] } }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    let row = FloatStore(count: max(shared.a.inputs, rank))
    func along(_ d: UnsafePointer<Float>, _ count: Int) -> Float {
      Float((0..<count).reduce(0.0) { $0 + Double(d[$1] * row.start[$1]) })
    }
    if let own = gradients[Self.forRanks] {
      for k in 0..<rank {
        shared.a.rows(k..<k + 1, into: row.start)
        own.start[k] += along(pair.a + k * inputs, inputs)
      }
    }
    if let own = gradients[Self.forOutputs] {
      for o in 0..<outputs {
        shared.b.rows(o..<o + 1, into: row.start)
        own.start[o] += along(pair.b + o * rank, rank)
      }
    }
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
}
