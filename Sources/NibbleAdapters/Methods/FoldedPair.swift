import NibbleCompute
import NibbleCore

/// A pair that a method makes of its own numbers, in memory of its own. In place of the pair's product such a method trains what the
/// pair is made of: `AdapterMethod.fold` fills it, `foldBack` hands its gradients on.
package struct FoldedPair: Sendable {
  /// A, [rank, inputs]
  package let a: FloatStore
  /// B, [outputs, rank]
  package let b: FloatStore
  /// Both, where they lie.
  package let pair: LowRankPair

  package init(rank: Int, inputs: Int, outputs: Int, scale: Double) {
    func matrix(_ store: FloatStore, _ rows: Int, _ columns: Int) -> Matrix {
      store.values.update(repeating: 0)
      return Matrix(.f32, rows: rows, columns: columns, UnsafeRawBufferPointer(store.values), owner: store)
        ?? Matrix([], rows: 0, columns: 0)
    }
    (a, b) = (FloatStore(count: rank * inputs), FloatStore(count: outputs * rank))
    pair = LowRankPair(a: matrix(a, rank, inputs), b: matrix(b, outputs, rank), scale: scale)
  }
}
