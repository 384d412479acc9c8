import NibbleCompute
import NibbleCore
import NibbleQuant

/// Two factors that are added to a packed matrix: what makes up best, at their rank, for what its codes leave.
public struct Correction: Sendable {
  /// The layer, as the model names it.
  public let module: String
  /// [rank, inputs]
  public let a: [Float]
  /// [outputs, rank]
  public let b: [Float]
  public let rank: Int
  /// The share of what was left that they take away, of the outputs.
  public let share: Double

  init(module: String, a: [Float], b: [Float], rank: Int, share: Double) {
    (self.module, self.a, self.b, self.rank, self.share) = (module, a, b, rank, share)
  }

  /// Columns beyond the rank that are searched with, and steps of the search.
  private static let oversampling = 10, steps = 6

  /// The B · A of a rank with the least E‖(E − B A) x̂‖², E what is left of the weight and x̂ what it is multiplied with (QERA,
  /// arXiv:2410.06040): B holds the greatest eigenvectors of E · H · Eᵀ, H the moments of x̂, and A = Bᵀ · E. They are found by subspace
  /// iteration, and H needs no root.
  ///
  /// - Parameters:
  ///   - left: E [outputs, inputs]
  ///   - hessian: H [inputs, inputs]
  /// - Throws: `.failed` without LAPACK
  init(module: String, _ left: FloatStore, outputs: Int, inputs: Int, hessian: FloatStore, rank wanted: Int, _ team: Team) throws {
    self.module = module
    let rank = min(wanted, outputs, inputs), width = min(rank + Self.oversampling, outputs, inputs)
    let random = CountedRandom(seed: 0, stream: XXH3.digest64(of: Array(module.utf8)))
    // [outputs, width], column by column as LAPACK takes it.
    var q = (0..<outputs * width).map { random.normal(UInt64($0)) }
    var values: [Double] = [], turn: [Double] = []
    for step in 0..<Self.steps {
      q = try LAPACK.qr(q, rows: outputs, columns: width).q
      let y = Self.product(left, hessian, q, outputs: outputs, inputs: inputs, width: width, team)
      if step == Self.steps - 1 {
        // Qᵀ · E H Eᵀ · Q, symmetric.
        var core = [Double](repeating: 0, count: width * width)
        for i in 0..<width { for j in 0..<width { core[j * width + i] = (0..<outputs).reduce(0) { $0 + q[i * outputs + $1] * y[j * outputs + $1] } } }
        (turn, values, _) = try LAPACK.svd(core, rows: width, columns: width)
      } else {
        q = y
      }
    }
    var b = [Float](repeating: 0, count: outputs * rank)
    for k in 0..<rank {
      for o in 0..<outputs { b[o * rank + k] = Float((0..<width).reduce(0.0) { $0 + q[$1 * outputs + o] * turn[k * width + $1] }) }
    }
    let a = FloatStore(count: rank * inputs)
    _ = BLAS.multiply(b, rank, left.start, inputs, transposed: false, a.start, inputs, m: rank, n: inputs, k: outputs, transposedLeft: true)
    (self.b, self.a, self.rank) = (b, Array(a.values), rank)
    let total = Self.energy(left, hessian, outputs: outputs, inputs: inputs, team)
    share = total > 0 ? min(max(values.prefix(rank).reduce(0, +) / total, 0), 1) : 0
  }

  /// E · H · Eᵀ · Q, column by column.
  private static func product(
    _ left: FloatStore, _ hessian: FloatStore, _ q: [Double], outputs: Int, inputs: Int, width: Int, _ team: Team
  ) -> [Double] {
    let wide = FloatStore(count: outputs * width), inner = FloatStore(count: inputs * width), weighted = FloatStore(count: inputs * width)
    for column in 0..<width { for row in 0..<outputs { wide.start[row * width + column] = Float(q[column * outputs + row]) } }
    let run = 256
    team.run(ceilDivide(inputs, run)) { index, _ in
      let start = index * run
      _ = BLAS.multiply(
        left.start + start, inputs, wide.start, width, transposed: false, inner.start + start * width, width, m: min(run, inputs - start),
        n: width, k: outputs, transposedLeft: true)
    }
    team.run(ceilDivide(inputs, run)) { index, _ in
      let start = index * run
      _ = BLAS.multiply(
        hessian.start + start * inputs, inputs, inner.start, width, transposed: false, weighted.start + start * width, width,
        m: min(run, inputs - start), n: width, k: inputs)
    }
    team.run(ceilDivide(outputs, run)) { index, _ in
      let start = index * run
      _ = BLAS.multiply(
        left.start + start * inputs, inputs, weighted.start, width, transposed: false, wide.start + start * width, width,
        m: min(run, outputs - start), n: width, k: inputs)
    }
    var y = [Double](repeating: 0, count: outputs * width)
    for column in 0..<width { for row in 0..<outputs { y[column * outputs + row] = Double(wide.start[row * width + column]) } }
    return y
  }

  /// tr(E · H · Eᵀ)
  static func energy(_ left: FloatStore, _ hessian: FloatStore, outputs: Int, inputs: Int, _ team: Team) -> Double {
    let run = 256, sums = FloatStore(count: ceilDivide(outputs, run))
    team.run(sums.count) { index, scratch in
      let start = index * run, rows = min(run, outputs - start)
      let own = left.start + start * inputs, product = scratch.floatStart(0, rows * inputs)
      _ = BLAS.multiply(own, inputs, hessian.start, inputs, transposed: false, product, inputs, m: rows, n: inputs, k: inputs)
      var sum = 0.0
      for place in 0..<rows * inputs { sum += Double(own[place]) * Double(product[place]) }
      sums.start[index] = Float(sum)
    }
    return sums.values.reduce(0) { $0 + Double($1) }
  }

  /// W + B · A
  ///
  /// - Throws: `.failed` for a weight of another shape
  func added(to packed: Matrix) throws -> Matrix {
    let (outputs, inputs) = (packed.outputs, packed.inputs), values = packed.values()
    guard a.count == rank * inputs, b.count == outputs * rank else {
      throw NibbleError(.failed, "a correction of \(module) does not fit \(outputs) rows of \(inputs)")
    }
    _ = BLAS.multiply(b, rank, a, inputs, transposed: false, values.start, inputs, m: outputs, n: inputs, k: rank, beta: 1)
    guard let matrix = Matrix(.f32, rows: outputs, columns: inputs, UnsafeRawBufferPointer(values.values), owner: values) else {
      throw NibbleError(.failed, "\(outputs) rows of \(inputs) make no matrix")
    }
    return matrix
  }
}
