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
  /// The normed input, where a norm stands first.
  let attentionInput: FloatStore
  /// Queries and keys before their norms, in rows of queries, keys and values.
  let projected: FloatStore
  /// Queries, keys and values side by side, turned to their positions.
  let queryKeyValue: FloatStore
  let attended: FloatStore
  /// What attention and MLP gave, where a norm follows before the sum.
  let attentionBranch, mlpBranch: FloatStore
  /// The sum behind attention, before a norm that follows it.
  let middle: FloatStore
  /// What the MLP took, if a norm gave it.
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
    let (attention, mlp) = (layer.attentionNorms, layer.mlpNorms)
    func store(_ count: Int, if isKept: Bool) -> FloatStore { FloatStore(count: isKept ? count : 0) }
    attentionInput = store(width, if: attention.before != nil)
    queryKeyValue = FloatStore(count: rows * shape.attentionWidth)
    projected = store(rows * shape.attentionWidth, if: layer.normsHeads)
    attended = FloatStore(count: rows * shape.queryWidth)
    attentionBranch = store(width, if: attention.after != nil)
    mlpBranch = store(width, if: mlp.after != nil)
    middle = FloatStore(count: width)
    mlpInput = store(width, if: mlp.before != nil || attention.behind != nil)
    up = FloatStore(count: rows * layer.upWidth)
    activated = FloatStore(count: rows * layer.down.inputs)
    end = store(width, if: mlp.behind != nil)
  }

  func holds(_ rows: Int) -> Bool { rows <= self.rows }
}
