import NibbleAdapters
import NibbleCompute

/// What a pass leaves for its way back: with all that its layers left, or (`checkpointing`) with their inputs alone, from which a
/// layer is computed once more. The next pass with the same tape overwrites it.
package final class Tape {
  /// Whether only the inputs of layers are kept.
  package var checkpointing: Bool
  /// What the next pass drops; nil for nothing.
  package var dropout: Dropout?
  package let clock = StepClock()
  /// Inputs of the layers, and the output of the last.
  private(set) var inputs: [FloatStore] = []
  private var layers: [LayerTape] = []
  /// Sums of embeddings, where a norm follows them.
  private(set) var embedded = FloatStore(count: 0)
  /// Of a language head.
  let head = LinearTape()
  /// Of the layers of a classification head.
  var dense: [DenseTape] = []

  package init(checkpointing: Bool = true) { self.checkpointing = checkpointing }

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
    dense = []
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

/// What the methods of linear layers leave, by layer: what they made of the outputs, and the outputs before they were scaled.
final class LinearTape {
  private var changes: [ParameterID: OutputChange] = [:]
  private var unscaled: [ParameterID: FloatStore] = [:]

  func keep(_ change: OutputChange, _ layer: Linear, _ out: UnsafePointer<Float>, _ rows: Int, _ stride: Int) {
    changes[layer.id] = change
    guard change.scale != nil else { return }
    let width = layer.outputs
    let store = unscaled[layer.id].flatMap { $0.count >= rows * width ? $0 : nil } ?? FloatStore(count: rows * width)
    for row in 0..<rows { (store.start + row * width).update(from: out + row * stride, count: width) }
    unscaled[layer.id] = store
  }

  func outputs(_ layer: Linear) -> (change: OutputChange, z: UnsafePointer<Float>?) {
    let change = changes[layer.id] ?? OutputChange()
    return (change, change.scale == nil ? nil : unscaled[layer.id].map { UnsafePointer($0.start) })
  }
}

/// What one layer of a classification head leaves: what it took, and what it gave before the activation.
struct DenseTape {
  let input: FloatStore
  let linear = LinearTape()
  var sums = FloatStore(count: 0)
}
