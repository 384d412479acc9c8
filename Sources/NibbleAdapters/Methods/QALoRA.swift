import NibbleCompute
import NibbleCore

/// QA-LoRA, arXiv:2309.14717: factors that see the means of groups of L inputs, so that the change is the same within a group and
/// merges into the zeros of a weight in groups.
///
///     z = x · Wᵀ + scale · gain · B · A · pool(x)
///
/// A is [rank, inputs / L]. Three gains are in use: the number of groups (PEFT's), 1 (the paper's program), and L (its read-me, which sums).
/// PEFT's stands for a configuration that says `use_qalora` and nothing else; `qalora_gain` says the others.
package struct QALoRA: AdapterMethod {
  package static let group = MethodSetting("qalora_group_size", standard: 16, 1...1 << 20)
  package static let gain = MethodSetting("qalora_gain", standard: 0, words: Gain.allCases.map(\.rawValue))

  /// What the mean of a group is multiplied with.
  package enum Gain: String, CaseIterable, Sendable {
    /// The number of groups.
    case groups
    case mean
    /// The size of a group.
    case sum

    func factor(_ shape: (groups: Int, length: Int)) -> Double {
      switch self {
      case .groups: Double(shape.groups)
      case .mean: 1
      case .sum: Double(shape.length)
      }
    }
  }

  package static let name = "QA-LoRA"
  package static let kind = LoRA.kind
  package static let flag: String? = "use_qalora"
  package static let keys = LoRA.keys
  package static let settings: [MethodSetting] = [group, gain]
  package static let folds = true
  package static let movesGroups = true
  package static func sharedInputs(_ module: ModuleShape) -> Int { length(module.settings) }
  package static let parts = [
    MethodPart(LoRA.first, suffixes: [".lora_A.weight"], isFactor: true) { [$0.rank, ($0.inputs ?? 0) / length($0.settings)] },
    MethodPart(LoRA.second, suffixes: [".lora_B.weight"], isFactor: true, isSecond: true) { [$0.outputs ?? 0, $0.rank] },
  ]

  package static func refusal(_ config: JSON) -> MessageText? { LoRA.refusal(config) }

  /// Inputs of a group.
  package static func length(_ settings: MethodSettings) -> Int { max(1, Int(settings[group.key] ?? 1)) }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let a = parts[LoRA.first], let b = parts[LoRA.second], a.count == 2, b.count == 2, !isEmbedding, a[0] > 0, b[1] == a[0],
      let inputs = elementCount(of: [a[1], length(settings)])
    else { return nil }
    return ModuleShape(input: [inputs], outputs: b[0], rank: a[0], settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    guard let inputs = module.inputs, inputs % length(module.settings) != 0 else { return nil }
    return "QA-LoRA needs groups that divide its \(inputs) inputs; \(length(module.settings)) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [
      LoRA.first: layer.factors.first(layer, rows: layer.rank, inputs: layer.inputs / length(layer.settings)),
      LoRA.second: [Float](repeating: 0, count: layer.outputs * layer.rank),
    ]
  }

  private let factors: LowRankPair
  private let length: Int
  /// gain / L
  private let factor: Float
  private let folded: FloatStore
  package let pair: LowRankPair?

  package init?(_ numbers: MethodNumbers) {
    guard let pair = LoRA(numbers)?.pair else { return nil }
    (factors, length) = (pair, Self.length(numbers.settings))
    let gain = Gain.allCases[min(Int(numbers.settings[Self.gain.key] ?? 0), Gain.allCases.count - 1)]
    factor = Float(gain.factor((pair.a.inputs, length)) / Double(length))
    folded = FloatStore(count: pair.rank * pair.a.inputs * length)
    // B is the pair's as it is.
    guard
      let a = Matrix(
        .f32, rows: pair.rank, columns: pair.a.inputs * length, UnsafeRawBufferPointer(folded.values), owner: folded)
    else { return nil }
    self.pair = LowRankPair(a: a, b: pair.b, scale: pair.scale)
    fold()
  }

  package func fold() {
    let (rank, groups) = (factors.rank, factors.a.inputs)
    let row = FloatStore(count: groups)
    for k in 0..<rank {
      factors.a.rows(k..<k + 1, into: row.start)
      for i in 0..<groups { (folded.start + (k * groups + i) * length).update(repeating: row.start[i] * factor, count: length) }
    }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    let (rank, groups) = (factors.rank, factors.a.inputs)
    if let own = gradients[LoRA.first] {
      for index in 0..<rank * groups {
        own.start[index] += factor * (0..<length).reduce(Float(0)) { $0 + pair.a[index * length + $1] }
      }
    }
    if let own = gradients[LoRA.second] { LayerKernels.add(pair.b, scaledBy: 1, count: factors.b.outputs * rank, to: own.start) }
  }

  package var isDead: Bool { factors.isZero }
}
