import NibbleCompute
import NibbleCore

/// What an adapter adds to rows of an embedding, forward and backward: scale · A[:, id] · Bᵀ.
package struct EmbeddingTerm: Sendable {
  /// [rank, count], or turned as its pair is
  private let a: FloatStore
  private let pair: LowRankPair

  /// - Parameter a: the pair's A, as numbers where they lie
  package init(a: FloatStore, _ pair: LowRankPair) { (self.a, self.pair) = (a, pair) }

  private var rank: Int { pair.rank }
  /// How far apart the numbers of one column of A are, and its columns.
  private var strides: (rank: Int, column: Int) { pair.isTurned ? (1, rank) : (a.count / max(rank, 1), 1) }

  /// Columns of A, scaled, one an id.
  private func low(_ ids: [Int], _ scale: Float, _ scratch: Scratch) -> UnsafeMutablePointer<Float> {
    let low = scratch.floatStart(AdapterSlot.tableLow, ids.count * rank), strides = self.strides
    for (row, id) in ids.enumerated() {
      for k in 0..<rank { low[row * rank + k] = a.start[k * strides.rank + id * strides.column] * scale }
    }
    return low
  }

  /// Adds to rows [ids, width].
  package func add(
    _ ids: [Int], weight: Float, to x: UnsafeMutablePointer<Float>, _ engine: Engine, _ scratch: Scratch
  ) {
    let width = pair.b.outputs, sums = scratch.floatStart(AdapterSlot.tableSums, ids.count * width)
    engine.multiply(
      low(ids, Float(pair.scale) * weight, scratch), rows: ids.count, stride: rank, [.init(pair.b, sums, stride: width)])
    LayerKernels.add(sums, scaledBy: 1, count: ids.count * width, to: x)
  }

  /// With u = scale · A's columns and du = dy · B: dB += dyᵀ · u, and A's columns get scale · du.
  package func backward(
    _ ids: [Int], _ dy: UnsafePointer<Float>, _ gradients: PartGradients, _ engine: Engine, _ scratch: Scratch
  ) {
    let width = pair.b.outputs, scale = Float(pair.scale), strides = self.strides
    let low = low(ids, scale, scratch), dlow = scratch.floatStart(AdapterSlot.tableLowGradient, ids.count * rank)
    engine.multiply(dy, rows: ids.count, stride: width, [.init(pair.b.turned, dlow, stride: rank)])
    let (first, second) = pair.isTurned ? (LoRA.second, LoRA.first) : (LoRA.first, LoRA.second)
    if let own = gradients[second] {
      if pair.isTurned {
        engine.addWeightGradient(low, stride: rank, outputs: rank, dy, stride: width, inputs: width, rows: ids.count, to: own.start)
      } else {
        engine.addWeightGradient(dy, stride: width, outputs: width, low, stride: rank, inputs: rank, rows: ids.count, to: own.start)
      }
    }
    guard let own = gradients[first] else { return }
    for (row, id) in ids.enumerated() {
      for k in 0..<rank { own.start[k * strides.rank + id * strides.column] += scale * dlow[row * rank + k] }
    }
  }
}
