import NibbleCore
import NibbleFormats
import NibbleQuant

extension Merging {
  /// Of each part, or what they are combined to.
  func factors() throws -> [LowRankFactors] {
    let own = parts.compactMap(\.factors)
    switch combination {
    case .sum: return own
    case .factors(let combination): return combined(own, combination)
    case .svd(let rank): return [try SingularFactors(own).factors(rank: rank)]
    }
  }

  /// A of all A_i with the weights sign(e) √|e|, B of all B_i with √|e|, e = weight · scale: not the sum of the deltas.
  private func combined(_ own: [LowRankFactors], _ combination: FactorCombination) -> [LowRankFactors] {
    guard var sum = own.first, let path = parts.first?.module.path else { return [] }
    let roots = own.map { abs($0.scale).squareRoot() }
    sum.a = combination.combine(own.map(\.a), zip(own, roots).map { $0.scale < 0 ? -$1 : $1 }, named: path + ".lora_A")
    sum.b = combination.combine(own.map(\.b), roots, named: path + ".lora_B")
    sum.scale = 1
    return [sum]
  }

  /// How far the combination is from the sum of the deltas, relative to that sum.
  func combinationError() throws -> Double {
    if case .sum = combination { return 0 }
    let deltas = parts.compactMap(\.factors)
    var difference = try factors()
    difference += deltas.map { part in
      var part = part
      part.scale = -part.scale
      return part
    }
    let size = LowRankFactors.squaredNorm(deltas)
    // Deltas that cancel leave nothing to be relative to.
    if size <= 1e-12 * deltas.reduce(0, { $0 + LowRankFactors.squaredNorm([$1]) }) { return 0 }
    return (notBelowZero(LowRankFactors.squaredNorm(difference)) / size).squareRoot()
  }
}
