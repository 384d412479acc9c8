import NibbleCompute
import NibbleCore
import NibbleQuant

/// A pair of thin factors as numbers in hand, to be combined, decomposed or written: scale · B · A.
struct LowRankFactors {
  /// [rank, inputs]
  var a: [Float]
  /// [outputs, rank]
  var b: [Float]
  var rank: Int
  var scale: Double

  init(a: [Float], b: [Float], rank: Int, scale: Double) { (self.a, self.b, self.rank, self.scale) = (a, b, rank, scale) }

  init(_ pair: LowRankPair) {
    (a, b) = pair.values
    (rank, scale) = (pair.rank, pair.scale)
  }

  var inputs: Int { a.count / max(rank, 1) }
  var outputs: Int { b.count / max(rank, 1) }

  /// As matrices, of some outputs.
  func pair(_ range: Range<Int>? = nil) -> LowRankPair {
    let range = range ?? 0..<outputs
    return LowRankPair(
      a: Matrix(a, rows: rank, columns: inputs),
      b: Matrix(Array(b[range.lowerBound * rank..<range.upperBound * rank]), rows: range.count, columns: rank), scale: scale)
  }

  /// ‖Σ scale · b · a‖² = Σ over pairs of ranks of ⟨b_k, b_l⟩ ⟨a_k, a_l⟩: no product of the size of the weight is made.
  static func squaredNorm(_ parts: [LowRankFactors]) -> Double {
    let rank = parts.reduce(0) { $0 + $1.rank }
    guard let first = parts.first, first.rank > 0 else { return 0 }
    let (inputs, outputs) = (first.inputs, first.outputs)
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

  /// ‖change − other change‖ / ‖change‖.
  func distance(to other: LowRankFactors) -> Double {
    if a == other.a, b == other.b, scale == other.scale { return 0 }
    var minus = other
    minus.scale = -other.scale
    let own = Self.squaredNorm([self])
    let missing = notBelowZero(Self.squaredNorm([self, minus]))
    return own != 0 ? (missing / own).squareRoot() : missing.squareRoot()
  }
}

extension [LowRankFactors] {
  /// All of them as one pair of factors with the scale 1.
  var sideBySide: LowRankFactors {
    let rank = reduce(0) { $0 + $1.rank }
    let outputs = first?.outputs ?? 0
    var a: [Float] = []
    var b = [Float](repeating: 0, count: outputs * rank)
    var at = 0
    for part in self {
      a += part.a.map { Float(part.scale * Double($0)) }
      for output in 0..<outputs {
        for k in 0..<part.rank { b[output * rank + at + k] = part.b[output * part.rank + k] }
      }
      at += part.rank
    }
    return LowRankFactors(a: a, b: b, rank: rank, scale: 1)
  }
}
