import NibbleCompute
import NibbleCore

/// IEC, the adapter of IR-QLoRA, arXiv:2402.05445: factors with a connection past each of them, of trained strength.
///
///     u = x · Aᵀ + β₁ · pool(x),   z = x · Wᵀ + scale · (u · Bᵀ + β₂ · repeat(u))
///
/// pool takes the means of `rank` runs of inputs, repeat gives each number to a run of outputs. So the pair is A + β₁ · P and B + β₂ · R,
/// P of those means and R of ones, and says the same as a plain LoRA adapter. With dropout, P sees the whole input.
package struct IEC: AdapterMethod {
  /// β₁ and β₂, by the names that IR-QLoRA's checkpoints have for them.
  package static let firstStrength = "lora_default_A_scale", secondStrength = "lora_default_B_scale"

  package static let name = "IEC"
  package static let kind = "IEC"
  package static let keys = LoRA.keys
  package static let isInPEFT = false
  package static let folds = true
  package static let parts =
    LoRA.factorParts + [
      MethodPart(firstStrength, suffixes: [".lora_default_A_scale"], isSecond: true) { _ in [1] },
      MethodPart(secondStrength, suffixes: [".lora_default_B_scale"], isSecond: true) { _ in [1] },
    ]

  package static func refusal(_ config: JSON) -> MessageText? { LoRA.refusal(config) }

  /// IR-QLoRA writes the configuration of LoRA.
  package static func isShown(by parts: Set<String>, insteadOf other: any AdapterMethod.Type) -> Bool {
    other == LoRA.self && (parts.contains(firstStrength) || parts.contains(secondStrength))
  }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard parts[LoRA.first]?.count == 2, !isEmbedding else { return nil }
    return LoRA.shape(of: parts, isEmbedding: false, settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    guard let inputs = module.inputs, let outputs = module.outputs, module.rank > 0 else { return nil }
    guard inputs % module.rank != 0 || outputs % module.rank != 0 else { return nil }
    return "IEC needs a rank that divides its \(inputs) inputs and \(outputs) outputs; \(module.rank) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    LoRA.start(layer).merging([firstStrength: [0], secondStrength: [0]]) { own, _ in own }
  }

  private let factors: LowRankPair
  private let first, second: FloatStore
  private let folded: FoldedPair

  package init?(_ numbers: MethodNumbers) {
    guard let pair = LoRA(numbers)?.pair, let first = numbers.values[Self.firstStrength],
      let second = numbers.values[Self.secondStrength], first.count == 1, second.count == 1
    else { return nil }
    (factors, self.first, self.second) = (pair, first, second)
    folded = FoldedPair(rank: pair.rank, inputs: pair.a.inputs, outputs: pair.b.outputs, scale: pair.scale)
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  /// β₁ · P
  package var undropped: LowRankPair? {
    var means = [Float](repeating: 0, count: rank * factors.a.inputs)
    let mean = first.start[0] / Float(run.inputs)
    for k in 0..<rank { for i in 0..<run.inputs { means[k * (factors.a.inputs + run.inputs) + i] = mean } }
    return LowRankPair(a: Matrix(means, rows: rank, columns: factors.a.inputs), b: folded.pair.b, scale: factors.scale)
  }

  private var rank: Int { factors.rank }
  /// Inputs that one mean is of, and outputs that one number is for.
  private var run: (inputs: Int, outputs: Int) { (factors.a.inputs / rank, factors.b.outputs / rank) }

  package func fold() {
    factors.a.rows(0..<rank, into: folded.a.start)
    factors.b.rows(0..<factors.b.outputs, into: folded.b.start)
    let mean = first.start[0] / Float(run.inputs)
    for k in 0..<rank {
      let own = folded.a.start + k * (factors.a.inputs + run.inputs)
      for i in 0..<run.inputs { own[i] += mean }
    }
    for o in 0..<factors.b.outputs { folded.b.start[o * rank + o / run.outputs] += second.start[0] }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    let (inputs, outputs) = (factors.a.inputs, factors.b.outputs)
    if let own = gradients[LoRA.first] { LayerKernels.add(pair.a, scaledBy: 1, count: rank * inputs, to: own.start) }
    if let own = gradients[LoRA.second] { LayerKernels.add(pair.b, scaledBy: 1, count: outputs * rank, to: own.start) }
    if let own = gradients[Self.firstStrength] {
      var sum = 0.0
      for all in [pair.a, pair.undropped].compactMap({ $0 }) {
        for k in 0..<rank { for i in 0..<run.inputs { sum += Double(all[k * (inputs + run.inputs) + i]) } }
      }
      own.start[0] += Float(sum / Double(run.inputs))
    }
    if let own = gradients[Self.secondStrength] {
      own.start[0] += Float((0..<outputs).reduce(0.0) { $0 + Double(pair.b[$1 * rank + $1 / run.outputs]) })
    }
  }

  package var isDead: Bool { folded.pair.isZero }
}
