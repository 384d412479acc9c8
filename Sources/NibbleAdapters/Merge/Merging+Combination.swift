import NibbleCore

extension Merging {
  /// Ranks whose products with each other are still cheap.
  private static let mostRanks = 512

  /// What `options` ask for, if these parts can be combined so.
  ///
  /// - Parameter name: of the tensor or module, for messages
  /// - Throws: `.usage`
  func combination(_ options: MergeOptions, of name: String) throws -> Combination {
    let method = options.method
    guard !method.isSum else { return .sum }
    let ranks = parts.map(\.module.pairRank)
    func fail(_ reason: MessageText) -> NibbleError { NibbleError.usage("\(.method, method.rawValue): \(reason)") }
    if let other = parts.first(where: { !$0.module.isPlain }) {
      throw fail("\(path: other.file.path) uses \(other.module.beyondFactors), which PEFT's combination is not made for")
    }
    guard ranks.reduce(0, +) <= Self.mostRanks else {
      throw fail("\(subject: name) has ranks \(ranks), together more than the limit of \(Self.mostRanks)")
    }
    if method == .svd {
      let sum = options.adapters.reduce(0) { $0 + ($1.adapter.modules.map(\.pairRank).max() ?? 0) }
      if let rank = options.svdRank, rank > sum {
        throw fail("\(.svdRank, rank) is above the ranks of all adapters together, \(sum)")
      }
      return .svd(rank: options.svdRank ?? options.largestRank)
    }
    guard Set(ranks).count == 1 else { throw fail("the adapters of \(subject: name) have ranks \(ranks); they must be equal") }
    if let other = parts.first(where: { $0.file.config.isRankStabilized }) {
      throw fail("\(path: other.file.path) uses rsLoRA, which PEFT's combination is not made for")
    }
    guard method.prunes else { return .factors(FactorCombination()) }
    guard options.adapters.count > 1 else { throw fail("one adapter is not enough; of one PEFT takes all, whatever is asked") }
    guard let density = options.density, density > 0, density <= 1 else {
      throw fail("\(.density) is needed, the share of numbers to keep: above 0, at most 1")
    }
    return .factors(
      FactorCombination(
        method.isRandom ? .random : .magnitude, election: method.electsSigns ? options.majoritySign : nil, density: density,
        seed: options.seed))
  }
}

extension MergeOptions {
  /// The largest rank any module has.
  var largestRank: Int { adapters.flatMap { $0.adapter.modules.map(\.pairRank) }.max() ?? 1 }
}
