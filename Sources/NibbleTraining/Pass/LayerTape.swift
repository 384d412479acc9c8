import NibbleCompute
import NibbleModels

/// What one layer's pass leaves for its way back. [rows, …] each.
final class LayerTape {
  /// What attention's projections took: the normed input, where norms stand first.
  let attentionInput: FloatStore
  /// Queries, keys and values side by side, turned to their positions.
  let queryKeyValue: FloatStore
  let attended: FloatStore
  /// The sum behind attention, before a norm that follows it.
  let middle: FloatStore
  /// What the MLP took.
  let mlpInput: FloatStore
  /// Its projections before the activation, side by side.
  let up: FloatStore
  /// What its last projection took.
  let activated: FloatStore
  /// The sum behind the MLP, where a norm follows it.
  let end: FloatStore
  let linear = LinearPass.Saved()
  private let rows: Int

  init(_ shape: TransformerShape, _ layer: LayerWeights, rows: Int) {
    self.rows = rows
    let width = rows * shape.width
    attentionInput = FloatStore(count: width)
    queryKeyValue = FloatStore(count: rows * (shape.queryWidth + 2 * shape.keyValueWidth))
    attended = FloatStore(count: rows * shape.queryWidth)
    middle = FloatStore(count: width)
    mlpInput = FloatStore(count: width)
    up = FloatStore(count: rows * layer.up.reduce(0) { $0 + $1.outputs })
    activated = FloatStore(count: rows * layer.down.inputs)
    end = FloatStore(count: shape.normsFirst ? 0 : width)
  }

  func holds(_ rows: Int) -> Bool { rows <= self.rows }
}
