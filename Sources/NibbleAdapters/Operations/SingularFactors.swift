import Glibc
import NibbleCompute
import NibbleCore

/// A sum of products of thin factors by its singular values: Δ = u · diag(s) · vᵀ, found without making Δ.
///
/// With B = Q_b R_b and Aᵀ = Q_a R_a, Δ = B A = Q_b (R_b R_aᵀ) Q_aᵀ, and only the small matrix in the middle is decomposed.
struct SingularFactors {
  /// In descending order.
  let values: [Double]
  let outputs: Int
  let inputs: Int
  /// [k, outputs] and [k, inputs]: the vectors one after another.
  private let left: [Double]
  private let right: [Double]

  /// - Throws: `.failed` where there is no LAPACK
  init(_ parts: [LowRankFactors]) throws {
    let rank = parts.reduce(0) { $0 + $1.rank }
    (outputs, inputs) = Self.shape(parts)
    // Column by column: B is [outputs, rank], Aᵀ is [inputs, rank], which is A row by row.
    var b: [Double] = [], a: [Double] = []
    b.reserveCapacity(outputs * rank)
    for part in parts {
      for k in 0..<part.rank { for o in 0..<outputs { b.append(part.scale * Double(part.b[o * part.rank + k])) } }
      a += part.a.map(Double.init)
    }
    let (qb, rb) = try LAPACK.qr(b, rows: outputs, columns: rank)
    let (qa, ra) = try LAPACK.qr(a, rows: inputs, columns: rank)
    let (kb, ka) = (min(outputs, rank), min(inputs, rank))
    var core = [Double](repeating: 0, count: kb * ka)
    for j in 0..<ka {
      for k in 0..<rank {
        let factor = ra[k * ka + j]
        guard factor != 0 else { continue }
        for i in 0..<kb { core[j * kb + i] += rb[k * kb + i] * factor }
      }
    }
    let (u, s, vt) = try LAPACK.svd(core, rows: kb, columns: ka)
    values = s
    left = Self.product(qb, outputs, (0..<s.count).map { k in (0..<kb).map { u[k * kb + $0] } })
    right = Self.product(qa, inputs, (0..<s.count).map { k in (0..<ka).map { vt[$0 * s.count + k] } })
  }

  /// Singular vectors and values that are known, one after another.
  init(values: [Double], left: [Double], outputs: Int, right: [Double], inputs: Int) {
    (self.values, self.left, self.outputs, self.right, self.inputs) = (values, left, outputs, right, inputs)
  }

  /// Matrices that are wider both ways are searched at random.
  static let widest = 2048

  /// The greatest singular values of a matrix [rows, columns], its rows the outputs, and their vectors.
  ///
  /// - Throws: `.failed` where there is no LAPACK
  init(greatestOf matrix: FloatStore, rows: Int, columns: Int, rank: Int, _ random: CountedRandom, _ team: Team) throws {
    guard min(rows, columns) <= Self.widest else {
      let square = matrix.values.reduce(0) { $0 + Double($1) * Double($1) }
      self = try RandomizedFactors(matrix, rows: rows, columns: columns, squaredNorm: square, rank: rank, random, team).found
      return
    }
    try self.init(allOf: matrix, rows: rows, columns: columns, rank: rank)
  }

  /// The same, of matrices of any size from the whole decomposition.
  init(allOf matrix: FloatStore, rows: Int, columns: Int, rank: Int) throws {
    // Column by column, the rows are columns: what is on the right there is on the left here.
    let (u, s, vt) = try LAPACK.svd(matrix.doubles, rows: columns, columns: rows)
    let kept = min(rank, s.count)
    self.init(
      values: Array(s.prefix(kept)), left: (0..<kept).flatMap { k in (0..<rows).map { vt[$0 * s.count + k] } }, outputs: rows,
      right: Array(u.prefix(kept * columns)), inputs: columns)
  }

  /// Of Δᵀ.
  var transposed: SingularFactors {
    SingularFactors(values: values, left: right, outputs: inputs, right: left, inputs: outputs)
  }

  private static func shape(_ parts: [LowRankFactors]) -> (outputs: Int, inputs: Int) {
    guard let first = parts.first, first.rank > 0 else { return (0, 0) }
    return (first.b.count / first.rank, first.a.count / first.rank)
  }

  /// Σ_i weights[k][i] · q_i for each k, one after another.
  static func product(_ q: [Double], _ length: Int, _ weights: [[Double]]) -> [Double] {
    var vectors = [Double](repeating: 0, count: weights.count * length)
    vectors.withUnsafeMutableBufferPointer { vectors in
      q.withUnsafeBufferPointer { q in
        for (k, row) in weights.enumerated() {
          for (i, factor) in row.enumerated() { for j in 0..<length { vectors[k * length + j] += factor * q[i * length + j] } }
        }
      }
    }
    return vectors
  }

  /// The best approximation of rank `rank`, as PEFT stores it: B = u diag(s), A = vᵀ. Ranks beyond those there are stay zero.
  func factors(rank: Int) -> LowRankFactors {
    var a = [Float](repeating: 0, count: rank * inputs), b = [Float](repeating: 0, count: outputs * rank)
    for k in 0..<min(rank, values.count) {
      for i in 0..<inputs { a[k * inputs + i] = Float(right[k * inputs + i]) }
      for o in 0..<outputs { b[o * rank + k] = Float(values[k] * left[k * outputs + o]) }
    }
    return LowRankFactors(a: a, b: b, rank: rank, scale: 1)
  }

  /// ‖Δ − B A‖ for what `factors(rank:)` makes: the values that are not in it, and what float32 took from B.
  func distance(to factors: LowRankFactors) -> Double {
    var missing = Array(values.dropFirst(factors.rank))
    for k in 0..<min(factors.rank, values.count) {
      missing += (0..<outputs).map { values[k] * left[k * outputs + $0] - Double(factors.b[$0 * factors.rank + k]) }
    }
    return Self.length(missing)
  }

  /// The least rank that keeps `share` of ‖Δ‖², at most `limit`, at least 1.
  ///
  /// - Parameter total: ‖Δ‖², where the values are only the greatest ones of it
  func rank(keeping share: Double, limit: Int, total: Double? = nil) -> Int {
    let wanted = share * (total ?? norm * norm)
    var kept = 0.0
    for (index, value) in values.enumerated() {
      kept += value * value
      if kept >= wanted { return min(index + 1, limit) }
    }
    return max(1, min(values.count, limit))
  }

  /// How many singular values count: exp of the entropy of their shares (Roy and Vetterli, 2007). 0 for a matrix of zeros.
  var effectiveRank: Double {
    let sum = values.reduce(0, +)
    guard sum > 0 else { return 0 }
    return exp(values.reduce(0) { $1 > 0 ? $0 - $1 / sum * log($1 / sum) : $0 })
  }

  /// ‖Δ‖
  var norm: Double { Self.length(values) }

  /// The root of the sum of squares, of numbers whose squares are none as well.
  private static func length(_ values: [Double]) -> Double {
    let most = values.reduce(0) { max($0, abs($1)) }
    guard most > 0, most.isFinite else { return most }
    return most * values.reduce(0) { $0 + $1 / most * ($1 / most) }.squareRoot()
  }
}
