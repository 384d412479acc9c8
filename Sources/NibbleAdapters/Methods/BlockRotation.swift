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

  /// dR = xᵀ · dx′, block by block.
  package func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, rows: Int, inputs: Int, _ gradients: PartGradients, _ engine: Engine
  ) {
    let own = FloatStore([Float](repeating: 0, count: blocks.count))
    for at in stride(from: 0, to: inputs, by: size) {
      engine.addWeightGradient(
        x + at, stride: inputs, outputs: size, dx + at, stride: inputs, inputs: size, rows: rows,
        to: own.start + (at / size % count) * size * size)
    }
    back(own, gradients)
  }
}
