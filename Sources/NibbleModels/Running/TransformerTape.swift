import NibbleCompute

/// What a transformer's forward pass keeps for the backward pass: everything its layers computed, or (`checkpointing`) only their inputs.
final class TransformerTape {
  private let checkpointing: Bool
  /// Inputs of the layers, and the output of the last.
  private(set) var inputs: [FloatStore] = []
  private var layers: [LayerTape] = []
  /// Sums of embeddings, where a norm follows them.
  private(set) var embedded = FloatStore(count: 0)
  /// What their projection took.
  private(set) var narrow = FloatStore(count: 0)
  let embeddingLinear = LinearTape()

  init(checkpointing: Bool) { self.checkpointing = checkpointing }

  /// The layer whose numbers the one place for all has.
  private var held = 0

  func layer(_ index: Int) -> LayerTape {
    guard checkpointing else { return layers[index] }
    if held != index { layers[0].linear.clear() }
    held = index
    return layers[0]
  }

  /// Makes room for so many rows, and rows of sources.
  func prepare(_ shape: TransformerShape, _ weights: TransformerWeights, rows: Int, sources: Int) {
    let count = checkpointing ? 1 : weights.layers.count
    if layers.count < count || !layers[0].holds(rows, sources) {
      // One place for all layers has room for each.
      layers = (checkpointing ? [weights.layers] : weights.layers.map { [$0] }).map { LayerTape(shape, $0, rows: rows, sources: sources) }
    }
    if inputs.isEmpty || inputs[0].count < rows * shape.width {
      inputs = (0...weights.layers.count).map { _ in FloatStore(count: rows * shape.width) }
    }
  }

  func keepNarrow(_ x: UnsafePointer<Float>, _ count: Int) {
    if narrow.count < count { narrow = FloatStore(count: count) }
    narrow.start.update(from: x, count: count)
  }

  func keepEmbedded(_ x: UnsafePointer<Float>, _ count: Int) {
    if embedded.count < count { embedded = FloatStore(count: count) }
    embedded.start.update(from: x, count: count)
  }
}

/// What one layer's pass leaves, or one after another of several. [rows, …] each.
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
  /// Of a layer with experts: p of each expert, which are taken, and what these give.
  let chances: FloatStore
  var routing: Routing?
  let given: FloatStore
  /// Of the expert that all tokens take, and of latent attention.
  let shared: SharedTape?
  let latent: LatentTape?
  let linear = LinearTape()
  /// Of a layer that looks at another text, too.
  let cross: CrossTape?
  private let rows, sources: Int

  init(_ shape: TransformerShape, _ layers: [LayerWeights], rows: Int, sources: Int) {
    (self.rows, self.sources) = (rows, sources)
    cross = layers.contains { $0.cross != nil } ? CrossTape(shape, rows: rows, sources: sources) : nil
    let width = rows * shape.width
    /// Room that some of the layers need.
    func store(_ count: Int, if isKept: (LayerWeights) -> Bool) -> FloatStore { FloatStore(count: layers.contains(where: isKept) ? count : 0) }
    attentionInput = store(width) { $0.attentionNorms.before != nil }
    queryKeyValue = FloatStore(count: rows * shape.attentionWidth)
    projected = store(rows * shape.attentionWidth) { $0.normsHeads || shape.normsHeadsPlainly }
    attended = FloatStore(count: rows * shape.attendedWidth)
    attentionBranch = store(width) { $0.attentionNorms.after != nil }
    mlpBranch = store(width) { $0.mlpNorms.after != nil }
    middle = FloatStore(count: width)
    mlpInput = store(width) { $0.mlpNorms.before != nil || $0.attentionNorms.behind != nil }
    up = FloatStore(count: rows * (layers.map { $0.used * $0.upWidth }.max() ?? 0))
    activated = FloatStore(count: rows * (layers.map { $0.used * $0.down.inputs }.max() ?? 0))
    chances = FloatStore(count: rows * (layers.map { $0.experts?.all.count ?? 0 }.max() ?? 0))
    given = FloatStore(count: width * (layers.map { $0.experts?.used ?? 0 }.max() ?? 0))
    shared = SharedTape(layers, width: shape.width, rows: rows)
    latent = LatentTape(layers, rows: rows)
    end = store(width) { $0.mlpNorms.behind != nil }
  }

  func holds(_ rows: Int, _ sources: Int) -> Bool { rows <= self.rows && sources <= self.sources }
}
