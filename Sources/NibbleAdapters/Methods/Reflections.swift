import NibbleCompute
import NibbleCore

/// x′ = x · Hᵀ with H a product of reflections, H = (I − 2 u₀ u₀ᵀ) · (I − 2 u₁ u₁ᵀ) · …, uₖ of length 1.
///
/// With the vectors as rows of U, H = I + Uᵀ · M · U: −M is the inverse of a triangle with ½ on its diagonal and uₖ · uₗ above it (the compact WY
/// form). So rows of x are changed together, by products with U, instead of by one reflection after another.
package struct Reflections: InputChange {
  /// U, [count, inputs]. `settle` follows what is written there.
  let vectors: FloatStore
  /// M, [count, count]
  private let middle: FloatStore
  private let count: Int
  private let inputs: Int
  /// Takes the gradient of the vectors to what they are made of.
  private let back: @Sendable (_ vectors: FloatStore, PartGradients) -> Void

  package init(
    inputs: Int, count: Int, back: @escaping @Sendable (_ vectors: FloatStore, PartGradients) -> Void
  ) {
    (self.inputs, self.count, self.back) = (inputs, count, back)
    (vectors, middle) = (FloatStore(count: count * inputs), FloatStore(count: count * count))
  }

  package var grain: Int { inputs }

  /// Makes M of the vectors.
  func settle() {
    var triangle = SquareMatrix(count, diagonal: 0.5)
    for k in 0..<count { for l in k + 1..<max(count, k + 1) { triangle[k, l] = dot(vectors.start + l * inputs, k) } }
    for (place, value) in triangle.inverse.values.enumerated() { middle.start[place] = Float(-value) }
  }

  private func dot(_ x: UnsafePointer<Float>, _ k: Int) -> Double {
    let u = vectors.start + k * inputs
    var sum = 0.0
    for i in 0..<inputs { sum += Double(u[i] * x[i]) }
    return sum
  }

  /// out = x + Σ over k of (Σ over l of M_kl · (u_l · x)) · u_k, or with the transpose of M.
  private func change(_ x: UnsafePointer<Float>, turned: Bool, to out: UnsafeMutablePointer<Float>) {
    let along = (0..<count).map { dot(x, $0) }
    out.update(from: x, count: inputs)
    for k in 0..<count {
      let factor = (0..<count).reduce(0.0) { $0 + Double(middle.start[turned ? $1 * count + k : k * count + $1]) * along[$1] }
      LayerKernels.add(vectors.start + k * inputs, scaledBy: Float(factor), count: inputs, to: out)
    }
  }

  package func apply(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>) { change(x, turned: false, to: out) }

  package func turnBack(_ v: UnsafePointer<Float>, _: Range<Int>, to out: UnsafeMutablePointer<Float>) { change(v, turned: true, to: out) }

  // MARK: Rows together

  private var matrix: Matrix { Matrix(vectors, rows: count, columns: inputs) }

  /// x · Uᵀ and what M makes of it, [rows, count].
  private func along(_ x: UnsafePointer<Float>, turned: Bool, _ pass: TermPass) -> (along: UnsafeMutablePointer<Float>, factors: UnsafeMutablePointer<Float>) {
    let along = pass.scratch.floatStart(AdapterSlot.term, pass.rows * count)
    let factors = pass.scratch.floatStart(AdapterSlot.termTurned, pass.rows * count)
    let middle = Matrix(middle, rows: count, columns: count)
    pass.engine.multiply(x, rows: pass.rows, stride: inputs, [.init(matrix, along, stride: count)])
    pass.engine.multiply(along, rows: pass.rows, stride: count, [.init(turned ? middle.turned : middle, factors, stride: count)])
    return (along, factors)
  }

  package func apply(_ x: UnsafePointer<Float>, inputs: Int, to out: UnsafeMutablePointer<Float>, _ pass: TermPass) {
    let factors = along(x, turned: false, pass).factors
    out.update(from: x, count: pass.rows * inputs)
    pass.engine.multiply(factors, rows: pass.rows, stride: count, [.init(matrix.turned, out, stride: inputs, adds: true)])
  }

  package func turnBack(_ dy: UnsafePointer<Float>, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass) {
    let factors = along(dy, turned: true, pass).factors
    if adds { LayerKernels.add(dy, count: pass.rows * inputs, to: dx) } else { dx.update(from: dy, count: pass.rows * inputs) }
    pass.engine.multiply(factors, rows: pass.rows, stride: count, [.init(matrix.turned, dx, stride: inputs, adds: true)])
  }

  /// With P = x · Uᵀ, Z = P · Mᵀ and x′ = x + Z · U: dU = Zᵀ · dx′ + dPᵀ · x, dZ = dx′ · Uᵀ, dP = dZ · M, dM = dZᵀ · P, and through the triangle, whose gradient
  /// is Mᵀ · dM · Mᵀ.
  package func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, inputs: Int, _ gradients: PartGradients, _ pass: TermPass
  ) {
    let (rows, engine) = (pass.rows, pass.engine)
    let own = FloatStore([Float](repeating: 0, count: count * inputs)), dm = FloatStore([Float](repeating: 0, count: count * count))
    let (p, z) = along(x, turned: false, pass)
    let dz = pass.scratch.floatStart(AdapterSlot.termOutput, 2 * rows * count), dp = dz + rows * count
    engine.addWeightGradient(z, stride: count, outputs: count, dx, stride: inputs, inputs: inputs, rows: rows, to: own.start)
    engine.multiply(dx, rows: rows, stride: inputs, [.init(matrix, dz, stride: count)])
    engine.multiply(dz, rows: rows, stride: count, [.init(Matrix(middle, rows: count, columns: count).turned, dp, stride: count)])
    engine.addWeightGradient(dp, stride: count, outputs: count, x, stride: inputs, inputs: inputs, rows: rows, to: own.start)
    engine.addWeightGradient(dz, stride: count, outputs: count, p, stride: count, inputs: count, rows: rows, to: dm.start)
    let turned = SquareMatrix(count, middle.start).transposed, triangle = turned * SquareMatrix(count, dm.start) * turned
    for k in 0..<count {
      for l in k + 1..<max(count, k + 1) {
        LayerKernels.add(vectors.start + l * inputs, scaledBy: Float(triangle[k, l]), count: inputs, to: own.start + k * inputs)
        LayerKernels.add(vectors.start + k * inputs, scaledBy: Float(triangle[k, l]), count: inputs, to: own.start + l * inputs)
      }
    }
    back(own, gradients)
  }
}
