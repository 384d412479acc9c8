import NibbleCore

/// PEFT's combinations of factors: the same factor of several adapters made into one, number by number.
///
/// What comes out is not the sum of the deltas; these are for those who want what the papers describe, or must reproduce it.
package struct FactorCombination: Sendable, Equatable {
  /// Which numbers of a factor are kept.
  package enum Pruning: Sendable, Equatable {
    case none
    /// The greatest `density` of them (of equal ones the first).
    case magnitude
    /// Each with the probability `density`, and divided by it (DARE: Yu et al., 2023).
    case random
  }

  package var pruning = Pruning.none
  /// Adapters that disagree with the sign that was elected are left out, and the rest is averaged (TIES: Yadav et al., 2023); nil for
  /// the sum of all.
  package var election: MergeOptions.SignElection?
  /// The share of numbers that pruning keeps.
  package var density = 1.0
  package var seed: UInt64 = 0

  package init(_ pruning: Pruning = .none, election: MergeOptions.SignElection? = nil, density: Double = 1, seed: UInt64 = 0) {
    (self.pruning, self.election, self.density, self.seed) = (pruning, election, density, seed)
  }

  /// - Parameters:
  ///   - tensors: as many numbers each
  ///   - weights: one a tensor
  ///   - name: what chance depends on, beside the seed and the tensor's place
  package func combine(_ tensors: [[Float]], _ weights: [Double], named name: String) -> [Float] {
    combine(tensors, weights) { tensor in
      let random = CountedRandom(seed: seed, stream: Self.stream(name, tensor))
      return { random.uniform(UInt64($0)) < density }
    }
  }

  /// The same with the numbers that chance keeps given.
  package func combine(_ tensors: [[Float]], _ weights: [Double], keeping: (Int) -> (Int) -> Bool) -> [Float] {
    let pruned = tensors.enumerated().map { prune($1, keeping: keeping($0)) }
    return (tensors.first?.indices ?? 0..<0).map { index in
      let isNegative = election.map { elect($0, pruned, index) }
      var sum = 0.0, count = 0
      for (tensor, weight) in zip(pruned, weights) {
        let value = tensor[index]
        if let isNegative, value == 0 || (value < 0) != isNegative { continue }
        sum += weight * Double(value)
        count += 1
      }
      return Float(election == nil ? sum : sum / Double(max(count, 1)))
    }
  }

  private func elect(_ election: MergeOptions.SignElection, _ tensors: [[Float]], _ index: Int) -> Bool {
    switch election {
    case .total: tensors.reduce(Float(0)) { $0 + $1[index] } < 0
    case .frequency: tensors.reduce(0) { $0 + ($1[index] > 0 ? 1 : $1[index] < 0 ? -1 : 0) } < 0
    }
  }

  private func prune(_ values: [Float], keeping: (Int) -> Bool) -> [Float] {
    guard density < 1 else { return values }
    switch pruning {
    case .none: return values
    case .random: return values.indices.map { keeping($0) ? Float(Double(values[$0]) / density) : 0 }
    case .magnitude:
      let kept = Int(density * Double(values.count))
      let order = values.indices.sorted {
        let (a, b) = (abs(values[$0]), abs(values[$1]))
        return a == b ? $0 < $1 : a > b
      }
      var pruned = [Float](repeating: 0, count: values.count)
      for index in order.prefix(kept) { pruned[index] = values[index] }
      return pruned
    }
  }

  private static func stream(_ name: String, _ tensor: Int) -> UInt64 {
    let hash = XXH3()
    hash.update(Array("\(tensor)/\(name)".utf8))
    return hash.digest64
  }
}
