import NibbleCompute
import NibbleCore

/// x′ = x · R with R block by block along the diagonal.
package struct BlockRotation: InputChange {
  /// Numbers of a row.
  private let inputs: Int
  /// Numbers of a block's side.
  private let size: Int
  /// [blocks, size, size], one block where all share it, and every block's transpose.
  private let blocks: FloatStore
  private let turned: FloatStore
  /// Takes the gradient of the blocks to what they are made of.
  private let back: @Sendable (_ blocks: FloatStore, PartGradients) -> Void

  /// Blocks that `set` has yet to fill.
  package init(
    inputs: Int, size: Int, count: Int, back: @escaping @Sendable (_ blocks: FloatStore, PartGradients) -> Void
  ) {
    (self.inputs, self.size, self.back) = (inputs, size, back)
    (blocks, turned) = (FloatStore(count: count * size * size), FloatStore(count: count * size * size))
  }

  package var grain: Int { size }
  private var count: Int { blocks.count / max(size * size, 1) }

  /// Fills one block.
  package func set(_ index: Int, to block: SquareMatrix) {
    let start = index * size * size
    for i in 0..<size {
      for j in 0..<size {
        blocks.start[start + i * size + j] = Float(block[i, j])
        turned.start[start + j * size + i] = Float(block[i, j])
      }
    }
  }

  package func apply(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>) {
    product(x, blocks, 0..<inputs, to: out)
  }

  package func turnBack(_ v: UnsafePointer<Float>, _ inputs: Range<Int>, to out: UnsafeMutablePointer<Float>) {
    product(v, turned, inputs, to: out)
  }

  private func product(
    _ x: UnsafePointer<Float>, _ matrices: FloatStore, _ inputs: Range<Int>, to out: UnsafeMutablePointer<Float>
  ) {
    out.update(repeating: 0, count: inputs.count)
    for at in stride(from: 0, to: inputs.count, by: size) {
      let block = matrices.start + ((inputs.lowerBound + at) / size % count) * size * size
      for i in 0..<size { LayerKernels.add(block + i * size, scaledBy: x[at + i], count: size, to: out + at) }
    }
  }

  // MARK: Rows together

  /// Every block's columns of all rows at once.
  private func product(
    _ x: UnsafePointer<Float>, _ matrices: FloatStore, inputs: Int, to out: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass
  ) {
    let (shared, rows, size, count) = (Unchecked(out), pass.rows, size, count), x = Unchecked(x)
    pass.engine.team.run(inputs / max(size, 1)) { index, _ in
      _ = BLAS.multiply(
        x.value + index * size, inputs, matrices.start + index % count * size * size, size, transposed: false, shared.value + index * size, inputs,
        m: rows, n: size, k: size, beta: adds ? 1 : 0)
    }
  }

  package func apply(_ x: UnsafePointer<Float>, inputs: Int, to out: UnsafeMutablePointer<Float>, _ pass: TermPass) {
    guard BLAS.isThere else { return applyByRows(x, inputs: inputs, to: out, pass) }
    product(x, blocks, inputs: inputs, to: out, adds: false, pass)
  }

  package func turnBack(_ dy: UnsafePointer<Float>, inputs: Int, to dx: UnsafeMutablePointer<Float>, adds: Bool, _ pass: TermPass) {
    guard BLAS.isThere else { return turnBackByRows(dy, inputs: inputs, to: dx, adds: adds, pass) }
    product(dy, turned, inputs: inputs, to: dx, adds: adds, pass)
  }

  /// dR = xᵀ · dx′, block by block.
  package func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, inputs: Int, _ gradients: PartGradients, _ pass: TermPass
  ) {
    let own = FloatStore([Float](repeating: 0, count: blocks.count))
    for at in stride(from: 0, to: inputs, by: size) {
      pass.engine.addWeightGradient(
        x + at, stride: inputs, outputs: size, dx + at, stride: inputs, inputs: size, rows: pass.rows,
        to: own.start + (at / size % count) * size * size)
    }
    back(own, gradients)
  }
}
