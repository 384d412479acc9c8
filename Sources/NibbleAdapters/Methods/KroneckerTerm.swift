import NibbleCompute
import NibbleCore
import NibbleQuant

/// scale · kron(U, V) of U [a, c] and V [b, d], for a layer of c·d inputs and a·b outputs. The product is never made: with a row of x as
/// X [c, d], and of the outputs as Z [a, b], Z += scale · U · X · Vᵀ.
package struct KroneckerTerm: LayerTerm {
  /// A factor, [rows, columns].
  package struct Factor: Sendable {
    let values: FloatStore
    let rows: Int
    let columns: Int

    package init(_ values: FloatStore, rows: Int, columns: Int) { (self.values, self.rows, self.columns) = (values, rows, columns) }

    var matrix: Matrix { Matrix(values, rows: rows, columns: columns) }
  }

  private let u: Factor
  private let v: Factor
  private let scale: Float
  private let back: @Sendable (_ du: FloatStore, _ dv: FloatStore, PartGradients) -> Void

  /// - Parameter back: takes the gradients of U and V to what they are made of
  package init(
    _ u: Factor, _ v: Factor, scale: Double, back: @escaping @Sendable (_ du: FloatStore, _ dv: FloatStore, PartGradients) -> Void
  ) {
    (self.u, self.v, self.scale, self.back) = (u, v, Float(scale), back)
  }

  private typealias Floats = UnsafeMutablePointer<Float>

  private var inputs: Int { u.columns * v.columns }

  /// (X · Vᵀ)ᵀ of every row: [rows, b, c].
  private func inner(_ x: UnsafePointer<Float>, _ pass: TermPass) -> Floats {
    let (b, c, d) = (v.rows, u.columns, v.columns)
    let t = pass.scratch.floatStart(AdapterSlot.term, pass.rows * c * b)
    pass.engine.multiply(x, rows: pass.rows * c, stride: d, [.init(v.matrix, t, stride: b)])
    let turned = pass.scratch.floatStart(AdapterSlot.termTurned, pass.rows * b * c)
    Self.turn(t, pass.rows, c, b, to: turned, pass)
    return turned
  }

  package func add(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>, stride: Int, weight: Float, _ pass: TermPass) {
    let (a, b, c) = (u.rows, v.rows, u.columns)
    let t = inner(x, pass), z = pass.scratch.floatStart(AdapterSlot.termOutput, pass.rows * b * a)
    pass.engine.multiply(t, rows: pass.rows * b, stride: c, [.init(u.matrix, z, stride: a)])
    let turned = pass.scratch.floatStart(AdapterSlot.term, pass.rows * a * b)
    Self.turn(z, pass.rows, b, a, to: turned, pass)
    for row in 0..<pass.rows { LayerKernels.add(turned + row * a * b, scaledBy: weight * scale, count: a * b, to: out + row * stride) }
  }

  package func backward(
    _ dz: UnsafePointer<Float>, stride: Int, _ x: UnsafePointer<Float>, dx: UnsafeMutablePointer<Float>?, _ gradients: PartGradients,
    _ pass: TermPass
  ) {
    let (a, b, c, d, rows) = (u.rows, v.rows, u.columns, v.columns, pass.rows)
    let t = inner(x, pass), own = pass.scratch.floatStart(AdapterSlot.termOutput, rows * b * a)
    Self.turn(dz, rows, a, b, stride: stride, to: own, pass)
    for place in 0..<rows * a * b { own[place] *= scale }
    let (du, dv) = (Self.zeros(a * c), Self.zeros(b * d))
    pass.engine.addWeightGradient(own, stride: a, outputs: a, t, stride: c, inputs: c, rows: rows * b, to: du.start)
    // What X · Vᵀ gets, turned in place of what it was.
    pass.engine.multiply(own, rows: rows * b, stride: a, [.init(u.matrix.turned, t, stride: c)])
    let dt = pass.scratch.floatStart(AdapterSlot.term, rows * c * b)
    Self.turn(t, rows, b, c, to: dt, pass)
    pass.engine.addWeightGradient(dt, stride: b, outputs: b, x, stride: d, inputs: d, rows: rows * c, to: dv.start)
    if let dx { pass.engine.multiply(dt, rows: rows * c, stride: b, [.init(v.matrix.turned, dx, stride: d, adds: true)]) }
    back(du, dv, gradients)
  }

  package func addRow(_ row: Int, _ columns: Range<Int>, turned: Bool, to out: UnsafeMutablePointer<Float>) {
    let (height, width) = turned ? (v.columns, v.rows) : (v.rows, v.columns)
    let (i, j) = row.quotientAndRemainder(dividingBy: height)
    for (place, column) in columns.enumerated() {
      let (k, l) = column.quotientAndRemainder(dividingBy: width)
      let (first, second) = turned ? (k * u.columns + i, l * v.columns + j) : (i * u.columns + k, j * v.columns + l)
      out[place] += scale * u.values.start[first] * v.values.start[second]
    }
  }

  /// Every [height, width] turned round; they lie `stride` apart, nil for one behind another.
  private static func turn(
    _ from: UnsafePointer<Float>, _ count: Int, _ height: Int, _ width: Int, stride: Int? = nil, to: Floats, _ pass: TermPass
  ) {
    let size = height * width, stride = stride ?? size
    pass.engine.team.split(count, grain: max(1, (1 << 14) / max(size, 1))) { part, _ in
      for index in part {
        Kernels.transpose(.f32, from + index * stride, rows: height, columns: width, stride: width, to + index * size)
      }
    }
  }

  private static func zeros(_ count: Int) -> FloatStore { FloatStore([Float](repeating: 0, count: count)) }
}
