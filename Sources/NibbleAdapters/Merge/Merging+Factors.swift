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
    case .linear: return Self.linear(own)
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

  /// A = Σ sign(e) √|e| A_i and B = Σ √|e| B_i with e = weight · scale, which is not the sum of the deltas.
  private static func linear(_ own: [Factors]) -> [Factors] {
    guard var sum = own.first else { return [] }
    func combined(_ factor: KeyPath<Factors, [Float]>, _ weight: (Double) -> Double) -> [Float] {
      var total = [Double](repeating: 0, count: sum[keyPath: factor].count)
      for part in own {
        let w = weight(part.scale)
        for (index, value) in part[keyPath: factor].enumerated() { total[index] += w * Double(value) }
      }
      return total.map { Float($0) }
    }
    (sum.a, sum.b) = (
      combined(\.a) { ($0 < 0 ? -1 : 1) * abs($0).squareRoot() }, combined(\.b) { abs($0).squareRoot() }
    )
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
    guard size > 1e-12 * deltas.reduce(0, { $0 + Self.squaredNorm([$1]) }) else { return 0 }
    return (max(0, Self.squaredNorm(difference)) / size).squareRoot()
  }

  /// ‖Σ scale · b · a‖² = Σ over pairs of ranks of ⟨b_k, b_l⟩ ⟨a_k, a_l⟩: no product of the size of the weight is made.
  private static func squaredNorm(_ parts: [Factors]) -> Double {
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
