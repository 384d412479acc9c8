import NibbleCompute

/// What a transformer's forward pass keeps for the backward pass: everything its layers computed, or (`checkpointing`) only their inputs.
final class TransformerTape {
  private let checkpointing: Bool
  /// Inputs of the layers, and the output of the last.
  private(set) var inputs: [FloatStore] = []
  private var layers: [LayerTape] = []
  /// Sums of embeddings, where a norm follows them.
  private(set) var embedded = FloatStore(count: 0)

  init(checkpointing: Bool) { self.checkpointing = checkpointing }

  func layer(_ index: Int) -> LayerTape { layers[checkpointing ? 0 : index] }

  /// Makes room for so many rows.
  func prepare(_ shape: TransformerShape, _ weights: TransformerWeights, rows: Int) {
    let count = checkpointing ? 1 : weights.layers.count
    if layers.count < count || !layers[0].holds(rows) {
      layers = weights.layers.prefix(max(count, 1)).map { LayerTape(shape, $0, rows: rows) }
    }
    if inputs.isEmpty || inputs[0].count < rows * shape.width {
      inputs = (0...weights.layers.count).map { _ in FloatStore(count: rows * shape.width) }
    }
  }

  func keepEmbedded(_ x: UnsafePointer<Float>, _ count: Int) {
    if embedded.count < count { embedded = FloatStore(count: count) }
    embedded.start.update(from: x, count: count)
  }
}

/// What one layer's pass leaves. [rows, …] each.
final class LayerTape {
  /// The normed input, where norms stand first.
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
  let linear = LinearTape()
  private let rows: Int

  init(_ shape: TransformerShape, _ layer: LayerWeights, rows: Int) {
    self.rows = rows
    let width = rows * shape.width
    attentionInput = FloatStore(count: shape.normsFirst ? width : 0)
    queryKeyValue = FloatStore(count: rows * (shape.queryWidth + 2 * shape.keyValueWidth))
    attended = FloatStore(count: rows * shape.queryWidth)
    middle = FloatStore(count: width)
    mlpInput = FloatStore(count: width)
    up = FloatStore(count: rows * layer.upWidth)
    activated = FloatStore(count: rows * layer.down.inputs)
    end = FloatStore(count: shape.normsFirst ? 0 : width)
  }

  func holds(_ rows: Int) -> Bool { rows <= self.rows }
}
