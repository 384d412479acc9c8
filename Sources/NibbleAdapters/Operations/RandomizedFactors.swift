import NibbleCompute
import NibbleCore
import NibbleQuant

/// The greatest singular values and vectors of a matrix in memory, by random projection and power iterations (Halko, Martinsson and
/// Tropp, 2011): nothing larger than rank + 10 is decomposed.
///
/// What is found is never more than there is: the rank-r part of QᵀD, Q orthonormal, holds at most the energy of the best
/// approximation of rank r, and each iteration adds to it. They go on until one adds less than a ten-thousandth.
struct RandomizedFactors {
  /// Of the matrix as it is stored, rows the outputs.
  let found: SingularFactors
  /// The share of ‖D‖² that the last iteration still added; nil if the sketch spans the whole matrix.
  private(set) var lastGain: Double?

  /// Columns of the sketch beyond the rank.
  static let oversampling = 10
  private static let mostIterations = 8
  private static let enough = 1e-4

  /// - Parameters:
  ///   - matrix: [rows, columns]
  ///   - squaredNorm: ‖matrix‖²
  ///   - random: for the first projection
  ///   - iterations: how many there are; nil for as many as add something
  /// - Throws: `.failed` where there is no LAPACK
  init(
    _ matrix: FloatStore, rows: Int, columns: Int, squaredNorm: Double, rank: Int, _ random: CountedRandom, _ team: Team,
    iterations: Int? = nil
  ) throws {
    let width = min(rank + Self.oversampling, rows, columns)
    let isWhole = width == min(rows, columns)
    let products = SketchProducts(matrix: matrix, rows: rows, columns: columns, width: width, team: team)
    let start = FloatStore(count: columns * width)
    team.split(start.count, grain: 1 << 14) { range, _ in
      for index in range { start.start[index] = Float(random.normal(UInt64(index))) }
    }
    var q = try Sketch(products.forward(start), rows: rows, columns: width).orthonormal().q
    var energy = 0.0
    for iteration in 0... {
      try Interrupt.check()
      // Dᵀ Q = P R, so QᵀD = Rᵀ Pᵀ, and with R = U S Vᵀ it is V S (P U)ᵀ.
      let (p, r) = try Sketch(products.backward(q.floats), rows: columns, columns: width).orthonormal()
      let (u, s, vt) = try LAPACK.svd(r, rows: width, columns: width)
      let now = s.prefix(rank).reduce(0) { $0 + $1 * $1 }
      let gain = squaredNorm > 0 ? (now - energy) / squaredNorm : 0
      energy = now
      let isEnough = iterations.map { iteration >= $0 } ?? (iteration > 0 && gain < Self.enough || iteration == Self.mostIterations)
      if isWhole || isEnough {
        let kept = min(rank, width)
        lastGain = isWhole ? nil : max(0, gain)
        found = SingularFactors(
          values: Array(s.prefix(kept)),
          left: SingularFactors.product(q.values, rows, (0..<kept).map { k in (0..<width).map { vt[$0 * width + k] } }),
          outputs: rows,
          right: SingularFactors.product(p.values, columns, (0..<kept).map { k in (0..<width).map { u[k * width + $0] } }),
          inputs: columns)
        return
      }
      q = try Sketch(products.forward(p.floats), rows: rows, columns: width).orthonormal().q
    }
    throw NibbleError(.failed, "the search for singular vectors came to no end")
  }
}

/// A few long columns.
private struct Sketch {
  /// Column by column.
  var values: [Double]
  let rows: Int
  let columns: Int

  /// - Parameter floats: row by row
  init(_ floats: FloatStore, rows: Int, columns: Int) {
    (self.rows, self.columns) = (rows, columns)
    values = [Double](unsafeUninitializedCapacity: rows * columns) { buffer, count in
      for row in 0..<rows {
        for column in 0..<columns { buffer[column * rows + row] = Double(floats.start[row * columns + column]) }
      }
      count = rows * columns
    }
  }

  private init(values: [Double], rows: Int, columns: Int) { (self.values, self.rows, self.columns) = (values, rows, columns) }

  func orthonormal() throws -> (q: Sketch, r: [Double]) {
    let (q, r) = try LAPACK.qr(values, rows: rows, columns: columns)
    return (Sketch(values: q, rows: rows, columns: columns), r)
  }

  /// Row by row.
  var floats: FloatStore {
    let store = FloatStore(count: rows * columns)
    values.withUnsafeBufferPointer { values in
      for column in 0..<columns {
        for row in 0..<rows { store.start[row * columns + column] = Float(values[column * rows + row]) }
      }
    }
    return store
  }
}

/// Products of a matrix with sketches, in runs of fixed length: what comes out does not depend on the number of threads.
private struct SketchProducts {
  let matrix: FloatStore
  let rows: Int
  let columns: Int
  let width: Int
  let team: Team
  private static let run = 512

  /// D · X, X and the result row by row.
  func forward(_ x: FloatStore) -> FloatStore {
    let y = FloatStore(count: rows * width)
    team.run(ceilDivide(rows, Self.run)) { index, _ in
      let start = index * Self.run
      _ = BLAS.multiply(
        matrix.start + start * columns, columns, x.start, width, transposed: false, y.start + start * width, width,
        m: min(Self.run, rows - start), n: width, k: columns)
    }
    return y
  }

  /// Dᵀ · X.
  func backward(_ x: FloatStore) -> FloatStore {
    let y = FloatStore(count: columns * width)
    team.run(ceilDivide(columns, Self.run)) { index, _ in
      let start = index * Self.run
      _ = BLAS.multiply(
        matrix.start + start, columns, x.start, width, transposed: false, y.start + start * width, width,
        m: min(Self.run, columns - start), n: width, k: rows, transposedLeft: true)
    }
    return y
  }
}
