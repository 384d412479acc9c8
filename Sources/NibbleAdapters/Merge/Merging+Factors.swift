import NibbleCore
import NibbleFormats
import NibbleQuant

extension Merging {
  /// Two factors, scale · b · a, as they go into a change.
  struct Factors {
    /// [rank, inputs]
    var a: [Float]
    /// [outputs, rank]
    var b: [Float]
    var rank: Int
    var scale: Double
    /// The DoRA module these are of.
    var dora: Part?
  }

  /// Of each part, or what they are combined to.
  func factors() throws -> [Factors] {
    let own = try partFactors()
    switch combination {
    case .sum: return own
    case .factors(let combination): return combined(own, combination)
    case .svd(let rank): return [try SingularFactors(own).factors(rank: rank)]
    }
  }

  private func partFactors() throws -> [Factors] {
    try parts.map { part in
      Factors(
        a: try part.file.mapped.floats(part.module.a), b: try part.file.mapped.floats(part.module.b), rank: part.module.rank,
        scale: part.weight * part.module.scale, dora: part.module.magnitude == nil ? nil : part)
    }
  }

  /// A of all A_i with the weights sign(e) √|e|, B of all B_i with √|e|, e = weight · scale: not the sum of the deltas.
  private func combined(_ own: [Factors], _ combination: FactorCombination) -> [Factors] {
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
    let deltas = try partFactors()
    var difference = try factors()
    difference += deltas.map { part in
      var part = part
      part.scale = -part.scale
      return part
    }
    let size = Self.squaredNorm(deltas)
    // Deltas that cancel leave nothing to be relative to.
    if size <= 1e-12 * deltas.reduce(0, { $0 + Self.squaredNorm([$1]) }) { return 0 }
    return (notBelowZero(Self.squaredNorm(difference)) / size).squareRoot()
  }

  /// ‖Σ scale · b · a‖² = Σ over pairs of ranks of ⟨b_k, b_l⟩ ⟨a_k, a_l⟩: no product of the size of the weight is made.
  static func squaredNorm(_ parts: [Factors]) -> Double {
    let rank = parts.reduce(0) { $0 + $1.rank }
    guard let first = parts.first, first.rank > 0 else { return 0 }
    let inputs = first.a.count / first.rank, outputs = first.b.count / first.rank
    var left = [Double](repeating: 0, count: rank * outputs), right: [Double] = []
    var at = 0
    for part in parts {
      for k in 0..<part.rank {
        for o in 0..<outputs { left[(at + k) * outputs + o] = part.scale * Double(part.b[o * part.rank + k]) }
      }
      right += part.a.map(Double.init)
      at += part.rank
    }
    var sum = 0.0
    left.withUnsafeBufferPointer { left in
      right.withUnsafeBufferPointer { right in
        guard let b = left.baseAddress, let a = right.baseAddress else { return }
        for k in 0..<rank {
          for l in 0...k {
            let own =
              RowBasis.dot(b + k * outputs, b + l * outputs, outputs) * RowBasis.dot(a + k * inputs, a + l * inputs, inputs)
            sum += k == l ? own : 2 * own
          }
        }
      }
    }
    return sum
  }
}
