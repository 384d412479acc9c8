/// How the experts that a token takes follow from what the router gives for it, and what each counts with.
///
/// With p, a softmax over all experts or a sigmoid of each, in float32, a token takes the experts of the greatest p. Each counts with its p,
/// or with its part of their sum. Llama 4's takes those of the greatest scores, and multiplies what they take with the sigmoids.
package struct RoutingRule: Sendable {
  package enum Scores: Sendable {
    case softmax, sigmoid
    /// A sigmoid of what experts are picked by, which counts before the expert: its input is multiplied with it (Llama 4).
    case ofInput
  }

  /// How many experts a token takes.
  package var used: Int
  package var scores = Scores.softmax
  /// Whether what they count with is divided by its sum.
  package var addsUp: Bool
  /// What they count with is multiplied by.
  package var scale: Float = 1
  /// Experts are taken from some groups of them only; nil for all.
  package var groups: ExpertGroups?
  /// Whether the router's product is of float32 numbers, whatever others are computed in.
  package var isExact = false

  package init(used: Int, addsUp: Bool) { (self.used, self.addsUp) = (used, addsUp) }

  /// Beside the sum that is divided by, as DeepSeek-V3 has it: nothing beside that of a softmax.
  static let least: Float = 1e-20
}

/// Groups of experts that follow one another, as many in each.
package struct ExpertGroups: Sendable {
  package var count: Int
  /// Groups whose experts a token may take: those of the greatest scores.
  package var used: Int
  /// How many of its greatest scores make, added up, the score of a group.
  package var counted: Int

  package init(count: Int, used: Int, counted: Int) { (self.count, self.used, self.counted) = (count, used, counted) }

  /// Sets the scores of experts that are in none of the best groups to −∞.
  func close(_ scores: inout [Float]) {
    let size = scores.count / max(count, 1)
    let sums = (0..<count).map { group in
      scores[group * size..<(group + 1) * size].sorted(by: >).prefix(counted).reduce(0, +)
    }
    // Of equal groups the first.
    let best = sums.indices.sorted { sums[$0] != sums[$1] ? sums[$0] > sums[$1] : $0 < $1 }
    for group in best.dropFirst(used) {
      for expert in group * size..<(group + 1) * size { scores[expert] = -.infinity }
    }
  }
}
