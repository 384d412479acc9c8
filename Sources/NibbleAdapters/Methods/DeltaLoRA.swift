import NibbleCompute
import NibbleCore

/// Delta-LoRA, arXiv:2309.02411: LoRA whose weight moves too, without a gradient of its own. After each step behind the first K
///
///     W ← W + λ · scale · (B⁺ · A⁺ − B · A)
///
/// The moves of all steps add up to one, λ · scale · (B · A − B₁ · A₁) with A₁ and B₁ as they were after step K. So W itself stays: beside it there
/// are (1 + λ) · B · A − λ · B₁ · A₁, factors of twice the rank, and the adapter that comes out is a plain LoRA of these. The
/// gradients are LoRA's: those of A are divided by 1 + λ.
package struct DeltaLoRA: AdapterMethod {
  private static let keptFirst = "kept_A", keptSecond = "kept_B"
  private static let strength = MethodSetting("delta_lambda", standard: 2, real: 0...1000)
  private static let start = MethodSetting("delta_start", standard: 0, 0...1_000_000_000)

  package static let name = "Delta-LoRA"
  package static let kind = LoRA.kind
  package static let keys = LoRA.keys
  package static let folds = true
  package static let needsFloats = true
  package static let dropoutKey: String? = nil
  package static var storedAs: any AdapterMethod.Type { LoRA.self }
  package static let settings = [strength, start]
  package static let parts =
    LoRA.factorParts + [
      MethodPart(keptFirst, suffixes: [".kept_A"], isKept: true) { [$0.rank, $0.inputs ?? 0] },
      MethodPart(keptSecond, suffixes: [".kept_B"], isKept: true) { [$0.outputs ?? 0, $0.rank] },
    ]

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    LoRA.shape(of: parts, isEmbedding: isEmbedding, settings: settings)
  }

  package static func pairRank(_ module: ModuleShape) -> Int { 2 * module.rank }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let own = LoRA.start(layer)
    return own.merging([keptFirst: own[LoRA.first] ?? [], keptSecond: own[LoRA.second] ?? []]) { first, _ in first }
  }

  private let factors, kept: LowRankPair
  private let lambda: Float
  private let folded: FoldedPair

  package init?(_ numbers: MethodNumbers) {
    guard let factors = LoRA(numbers)?.pair, let a = numbers.matrices[Self.keptFirst], let b = numbers.matrices[Self.keptSecond] else { return nil }
    (self.factors, kept) = (factors, LowRankPair(a: a, b: b, scale: factors.scale))
    lambda = Float(numbers.settings[Self.strength.key] ?? 0)
    folded = FoldedPair(rank: 2 * factors.rank, inputs: factors.a.inputs, outputs: factors.b.outputs, scale: factors.scale)
    fold()
  }

  package var pair: LowRankPair? { folded.pair }

  package func fold() {
    let rank = factors.rank
    factors.a.rows(0..<rank, into: folded.a.start)
    kept.a.rows(0..<rank, into: folded.a.start + rank * factors.a.inputs)
    for output in 0..<factors.b.outputs {
      let row = folded.b.start + output * 2 * rank
      factors.b.rows(output..<output + 1, into: row)
      kept.b.rows(output..<output + 1, into: row + rank)
      for k in 0..<rank { (row[k], row[rank + k]) = ((1 + lambda) * row[k], -lambda * row[rank + k]) }
    }
  }

  package func foldBack(_ pair: PairGradients, to gradients: PartGradients) {
    let rank = factors.rank
    if let own = gradients[LoRA.first] {
      LayerKernels.add(pair.a, scaledBy: 1 / (1 + lambda), count: rank * factors.a.inputs, to: own.start)
    }
    guard let own = gradients[LoRA.second] else { return }
    for output in 0..<factors.b.outputs {
      LayerKernels.add(pair.b + output * 2 * rank, scaledBy: 1, count: rank, to: own.start + output * rank)
    }
  }

  package var isDead: Bool { factors.isZero }

  package static func rule(_ modules: [RuledModule], steps: Int) throws -> (any TrainingRule)? { Moves(modules) }

  /// Keeps A₁ and B₁ up to date until the weight begins to move, and makes plain factors of what an adapter holds.
  private final class Moves: TrainingRule {
    private struct Pair {
      let own, kept: RuledModule.Part
    }

    private let pairs: [(a: Pair, b: Pair)]
    private let begin: Int
    private let lambda: Float

    init?(_ modules: [RuledModule]) {
      pairs = modules.compactMap { module in
        guard let a = module.parts[LoRA.first], let b = module.parts[LoRA.second], let keptA = module.parts[keptFirst],
          let keptB = module.parts[keptSecond]
        else { return nil }
        return (Pair(own: a, kept: keptA), Pair(own: b, kept: keptB))
      }
      guard let settings = modules.first?.settings, pairs.count == modules.count else { return nil }
      (begin, lambda) = (Int(settings[start.key] ?? 0), Float(settings[strength.key] ?? 0))
    }

    func addLoss() -> Double { 0 }

    func stepped(_ step: Int) {
      guard step <= begin else { return }
      for pair in pairs.flatMap({ [$0.a, $0.b] }) { pair.kept.values.start.update(from: pair.own.values.start, count: pair.own.values.count) }
    }

    var state: [(name: String, values: FloatStore)] { pairs.flatMap { [$0.a, $0.b] }.map { ($0.kept.name, $0.kept.values) } }

    var members: [(String, JSON)] { [] }

    func stored(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float]) {
      if let pair = pairs.first(where: { $0.a.own.name == name })?.a {
        return ([2 * shape[0]] + shape.dropFirst(), values + Array(pair.kept.values.values))
      }
      guard let pair = pairs.first(where: { $0.b.own.name == name })?.b else { return (shape, values) }
      let (rank, kept) = (shape[1], pair.kept.values)
      var rows: [Float] = []
      for row in 0..<shape[0] {
        for value in values[row * rank..<(row + 1) * rank] { rows.append((1 + lambda) * value) }
        for place in row * rank..<(row + 1) * rank { rows.append(-lambda * kept.start[place]) }
      }
      return ([shape[0], 2 * rank], rows)
    }
  }
}
