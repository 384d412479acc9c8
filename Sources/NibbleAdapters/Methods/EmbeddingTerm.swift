import NibbleCompute
import NibbleCore

/// What an adapter adds to rows of an embedding, forward and backward: scale · A[:, id] · Bᵀ.
package struct EmbeddingTerm: Sendable {
  /// [rank, count]
  private let a: FloatStore
  /// [width, rank]
  private let b: Matrix
  private let scale: Float

  /// - Parameter a: the pair's A, as numbers
  package init(a: FloatStore, _ pair: LowRankPair) { (self.a, b, scale) = (a, pair.b, Float(pair.scale)) }

  private var rank: Int { b.inputs }
  private var count: Int { a.count / max(rank, 1) }

  /// Columns of A, scaled, one an id.
  private func low(_ ids: [Int], _ scale: Float, _ scratch: Scratch) -> UnsafeMutablePointer<Float> {
    let low = scratch.floatStart(AdapterSlot.tableLow, ids.count * rank)
    for (row, id) in ids.enumerated() {
      for k in 0..<rank { low[row * rank + k] = a.start[k * count + id] * scale }
    }
    return low
  }

  /// Adds to rows [ids, width].
  package func add(
    _ ids: [Int], weight: Float, to x: UnsafeMutablePointer<Float>, _ engine: Engine, _ scratch: Scratch
  ) {
    let width = b.outputs, sums = scratch.floatStart(AdapterSlot.tableSums, ids.count * width)
    engine.multiply(
      low(ids, scale * weight, scratch), rows: ids.count, stride: rank, [.init(b, sums, stride: width)])
    LayerKernels.add(sums, scaledBy: 1, count: ids.count * width, to: x)
  }

  /// With u = scale · A's columns and du = dy · B: dB += dyᵀ · u, and A's columns get scale · du.
  package func backward(
    _ ids: [Int], _ dy: UnsafePointer<Float>, _ gradients: PartGradients, _ engine: Engine, _ scratch: Scratch
  ) {
    let width = b.outputs
    let low = low(ids, scale, scratch), dlow = scratch.floatStart(AdapterSlot.tableLowGradient, ids.count * rank)
    engine.multiply(dy, rows: ids.count, stride: width, [.init(b.turned, dlow, stride: rank)])
    if let own = gradients[LoRA.second] {
      engine.addWeightGradient(
        dy, stride: width, outputs: width, low, stride: rank, inputs: rank, rows: ids.count, to: own.start)
    }
    guard let own = gradients[LoRA.first] else { return }
    for (row, id) in ids.enumerated() {
      for k in 0..<rank { own.start[k * count + id] += scale * dlow[row * rank + k] }
    }
  }
}
