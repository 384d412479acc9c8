import NibbleCompute
import NibbleCore

/// MiSS, arXiv:2409.15371: z = x · Wᵀ + pool(x) · D, with number k of pool(x) the sum of x's numbers k, k + rank, k + 2·rank, … and D
/// [rank, outputs]. With `init_weights` = mini, D is repeated from its first `mini_r` columns.
package struct MiSS: AdapterMethod {
  private static let block = "miss_block"
  private static let kindOfBlock = "init_weights", width = "mini_r"

  package static let name = "MiSS"
  package static let kind = "MISS"
  package static let onlyBias = "MiSS_only"
  package static let settings = [MethodSetting(width, standard: 1, 1...1_048_576), MethodSetting(kindOfBlock, flag: true, or: ["mini"])]
  package static let standardRank = 64
  package static let rankKey: String? = "r"
  package static let dropoutKey: String? = "miss_dropout"
  package static let folds = true
  package static let parts = [
    MethodPart(block, suffixes: [".miss_block"]) { [$0.rank, isMini($0.settings) ? Int($0.settings[width] ?? 1) : $0.outputs ?? 0] }
  ]

  /// Behind the words for false and true.
  private static func isMini(_ settings: MethodSettings) -> Bool { settings[kindOfBlock] == 2 }

  package static func refusal(_ config: JSON) -> MessageText? {
    config[kindOfBlock]?.string == "bat"
      ? "\(key: kindOfBlock) = \(quoted("bat")) is not implemented: it changes the weight's blocks by themselves" : nil
  }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let shape = parts[block], shape.count == 2, shape[0] > 0, shape[1] > 0, !isEmbedding else { return nil }
    return ModuleShape(outputs: isMini(settings) ? nil : shape[1], rank: shape[0], settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    guard isMini(module.settings), let outputs = module.outputs, let own = module.settings[width].map({ Int($0) }), own > 0,
      outputs % own != 0
    else { return nil }
    return "\(key: width) has to divide its \(outputs) outputs; \(own) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [block: [Float](repeating: 0, count: layer.rank * (isMini(layer.settings) ? Int(layer.settings[width] ?? 1) : layer.outputs))]
  }

  private let own: FloatStore
  private let rank: Int
  private let outputs: Int
  private let folded: FoldedPair
  private var width: Int { own.count / rank }

  package init?(_ numbers: MethodNumbers) {
    guard let own = numbers.values[Self.block], let rank = numbers.rank, rank > 0, let inputs = numbers.inputs,
      let outputs = numbers.outputs, outputs % (own.count / rank) == 0
    else { return nil }
    (self.own, self.rank, self.outputs) = (own, rank, outputs)
    folded = FoldedPair(rank: rank, inputs: inputs, outputs: outputs, scale: 1)
    for i in 0..<inputs { folded.a.start[i % rank * inputs + i] = 1 }
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  package func fold() {
    for o in 0..<outputs { for k in 0..<rank { folded.b.start[o * rank + k] = own.start[k * width + o % width] } }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    guard let gradient = gradients[Self.block]?.start else { return }
    for o in 0..<outputs { for k in 0..<rank { gradient[k * width + o % width] += pair.b[o * rank + k] } }
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
}
