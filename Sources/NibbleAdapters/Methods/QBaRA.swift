import NibbleCompute
import NibbleCore

/// Q-BaRA, later renamed Q-BLoRA: factors of λ times the rank between inputs and outputs that are λ times as few.
///
///     z = x · Wᵀ + scale · repeat(B · A · pool(x))
///
/// pool takes the means of runs of λ inputs, repeat gives each number to λ outputs. A is [λ · rank, inputs / λ] and B [outputs / λ, λ · rank]:
/// as many numbers as LoRA's, and a change of λ times the rank. The scale is alpha / rank.
package struct QBaRA: AdapterMethod {
  package static let lambda = MethodSetting("qbara_lambda", standard: 2, 1...4096)

  package static let name = "Q-BaRA"
  package static let kind = "QBARA"
  package static let keys = LoRA.keys
  package static let settings: [MethodSetting] = [lambda]
  package static let isInPEFT = false
  package static let folds = true
  package static let parts = [
    MethodPart(LoRA.first, suffixes: [".lora_A.weight"], isFactor: true) { [pairRank($0), ($0.inputs ?? 0) / run($0.settings)] },
    MethodPart(LoRA.second, suffixes: [".lora_B.weight"], isFactor: true, isSecond: true) {
      [($0.outputs ?? 0) / run($0.settings), pairRank($0)]
    },
  ]

  package static func refusal(_ config: JSON) -> MessageText? { LoRA.refusal(config) }

  private static func run(_ settings: MethodSettings) -> Int { max(1, Int(settings[lambda.key] ?? 1)) }

  package static func pairRank(_ module: ModuleShape) -> Int { module.rank * run(module.settings) }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let a = parts[LoRA.first], let b = parts[LoRA.second], a.count == 2, b.count == 2, !isEmbedding else { return nil }
    let lambda = run(settings)
    guard a[0] > 0, b[1] == a[0], a[0] % lambda == 0, let inputs = elementCount(of: [a[1], lambda]),
      let outputs = elementCount(of: [b[0], lambda])
    else { return nil }
    return ModuleShape(input: [inputs], outputs: outputs, rank: a[0] / lambda, settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    let lambda = run(module.settings)
    guard let inputs = module.inputs, let outputs = module.outputs, inputs % lambda != 0 || outputs % lambda != 0 else { return nil }
    return "Q-BaRA needs a lambda that divides its \(inputs) inputs and \(outputs) outputs; \(lambda) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let lambda = run(layer.settings), rank = layer.rank * lambda
    return [
      LoRA.first: layer.factors.first(layer, rows: rank, inputs: layer.inputs / lambda),
      LoRA.second: [Float](repeating: 0, count: layer.outputs / lambda * rank),
    ]
  }

  private let factors: LowRankPair
  private let lambda: Int
  private let folded: FoldedPair

  package init?(_ numbers: MethodNumbers) {
    guard let pair = LoRA(numbers)?.pair else { return nil }
    (factors, lambda) = (pair, Self.run(numbers.settings))
    folded = FoldedPair(rank: pair.rank, inputs: pair.a.inputs * lambda, outputs: pair.b.outputs * lambda, scale: pair.scale)
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  package func fold() {
    let (rank, inputs, outputs) = (factors.rank, factors.a.inputs, factors.b.outputs)
    let row = FloatStore(count: max(inputs, rank))
    for k in 0..<rank {
      factors.a.rows(k..<k + 1, into: row.start)
      for i in 0..<inputs { (folded.a.start + (k * inputs + i) * lambda).update(repeating: row.start[i] / Float(lambda), count: lambda) }
    }
    for o in 0..<outputs {
      factors.b.rows(o..<o + 1, into: row.start)
      for copy in 0..<lambda { (folded.b.start + (o * lambda + copy) * rank).update(from: row.start, count: rank) }
    }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    let (rank, inputs, outputs) = (factors.rank, factors.a.inputs, factors.b.outputs)
    if let own = gradients[LoRA.first] {
      for index in 0..<rank * inputs {
        own.start[index] += (0..<lambda).reduce(Float(0)) { $0 + pair.a[index * lambda + $1] } / Float(lambda)
      }
    }
    if let own = gradients[LoRA.second] {
      for o in 0..<outputs {
        for copy in 0..<lambda {
          LayerKernels.add(pair.b + (o * lambda + copy) * rank, scaledBy: 1, count: rank, to: own.start + o * rank)
        }
      }
    }
  }

  package var isDead: Bool { factors.isZero }
}
