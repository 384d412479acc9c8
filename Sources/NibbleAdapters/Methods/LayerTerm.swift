import NibbleCompute
import NibbleCore

/// What a method adds to a layer's product where that is no pair of thin factors: z += K(x), linear in x. Gradients always need it by
/// itself, and so does its product.
package protocol LayerTerm: Sendable {
  /// out += weight · K(x)
  ///
  /// - Parameters:
  ///   - x: [rows, inputs]
  ///   - out: [rows, outputs], rows `stride` floats apart
  func add(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>, stride: Int, weight: Float, _ pass: TermPass)
  /// Adds to the gradients of what K is made of, and to that of x.
  ///
  /// - Parameters:
  ///   - dz: [rows, outputs], rows `stride` floats apart
  ///   - x: [rows, inputs]
  ///   - dx: [rows, inputs]; nil where nobody needs it
  func backward(
    _ dz: UnsafePointer<Float>, stride: Int, _ x: UnsafePointer<Float>, dx: UnsafeMutablePointer<Float>?, _ gradients: PartGradients,
    _ pass: TermPass)
  /// Adds a run of one row of K's matrix, [outputs, inputs], or with `turned` of its transpose.
  func addRow(_ row: Int, _ columns: Range<Int>, turned: Bool, to out: UnsafeMutablePointer<Float>)
}

/// What a term is computed with.
package struct TermPass {
  package let rows: Int
  /// Of float32.
  package let engine: Engine
  package let scratch: Scratch

  package init(rows: Int, _ engine: Engine, _ scratch: Scratch) { (self.rows, self.engine, self.scratch) = (rows, engine, scratch) }
}
