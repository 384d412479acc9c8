import NibbleCompute
import NibbleCore

/// LoHa of LyCORIS (FedPara, arXiv:2108.06098): scale · (A₁ · B₁) ∘ (A₂ · B₂), the products of two pairs multiplied number by number. That is
/// a pair itself, of every rank of the one with every rank of the other: no matrix of the weight's size is made.
package struct LoHa: AdapterMethod {
  private static let a1 = "hada_w1_a", b1 = "hada_w1_b", a2 = "hada_w2_a", b2 = "hada_w2_b"

  package static let name = "LoHa"
  package static let kind = "LOHA"
  package static let keys: Set<String> = [
    "rank_pattern", "alpha_pattern", "rank_dropout", "module_dropout", "use_effective_conv2d", "init_weights",
  ]
  package static let rankKey: String? = "r", alphaKey: String? = "alpha"
  package static let folds = true
  package static let parts =
    [a1, a2].map { MethodPart($0, suffixes: ["." + $0]) { [$0.outputs ?? 0, $0.rank] } }
    + [b1, b2].map { MethodPart($0, suffixes: ["." + $0]) { [$0.rank, $0.inputs ?? 0] } }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let a = parts[a1], let b = parts[b1], a.count == 2, b.count == 2, a[1] == b[0], a[1] > 0, !isEmbedding else { return nil }
    return ModuleShape(input: [b[1]], outputs: a[0], rank: a[1])
  }

  package static func pairRank(_ module: ModuleShape) -> Int { module.rank * module.rank }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    module.rank > 1024 ? "LoHa of rank \(module.rank) is a pair of rank \(module.rank * module.rank), more than is computed with" : nil
  }

  /// PEFT's: the last factor of zeros.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [
      a1: layer.uniform([layer.outputs, layer.rank], 0), b1: layer.uniform([layer.rank, layer.inputs], 1),
      a2: layer.uniform([layer.outputs, layer.rank], 2), b2: [Float](repeating: 0, count: layer.rank * layer.inputs),
    ]
  }

  private let own: (a1: FloatStore, b1: FloatStore, a2: FloatStore, b2: FloatStore)
  private let rank: Int
  private let folded: FoldedPair
  private var inputs: Int { own.b1.count / rank }
  private var outputs: Int { own.a1.count / rank }

  package init?(_ numbers: MethodNumbers) {
    guard let a1 = numbers.values[Self.a1], let b1 = numbers.values[Self.b1], let a2 = numbers.values[Self.a2],
      let b2 = numbers.values[Self.b2], let rank = numbers.rank, rank > 0
    else { return nil }
    (own, self.rank) = ((a1, b1, a2, b2), rank)
    folded = FoldedPair(rank: rank * rank, inputs: b1.count / rank, outputs: a1.count / rank, scale: numbers.scale)
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  package func fold() {
    for k in 0..<rank {
      for l in 0..<rank {
        let row = folded.a.start + (k * rank + l) * inputs
        row.update(from: own.b1.start + k * inputs, count: inputs)
        LayerKernels.multiply(row, by: own.b2.start + l * inputs, count: inputs)
      }
    }
    for o in 0..<outputs {
      let row = folded.b.start + o * rank * rank
      for k in 0..<rank {
        for l in 0..<rank { row[k * rank + l] = own.a1.start[o * rank + k] * own.a2.start[o * rank + l] }
      }
    }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    for k in 0..<rank {
      for l in 0..<rank {
        let d = pair.a + (k * rank + l) * inputs
        let (first, second) = (own.b1.start + k * inputs, own.b2.start + l * inputs)
        if let to = gradients[Self.b1]?.start { for i in 0..<inputs { to[k * inputs + i] += d[i] * second[i] } }
        if let to = gradients[Self.b2]?.start { for i in 0..<inputs { to[l * inputs + i] += d[i] * first[i] } }
      }
    }
    for o in 0..<outputs {
      let d = pair.b + o * rank * rank
      for k in 0..<rank {
        for l in 0..<rank {
          gradients[Self.a1]?.start[o * rank + k] += d[k * rank + l] * own.a2.start[o * rank + l]
          gradients[Self.a2]?.start[o * rank + l] += d[k * rank + l] * own.a1.start[o * rank + k]
        }
      }
    }
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {}
}
