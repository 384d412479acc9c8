import NibbleAdapters
import NibbleCompute

/// What a pass leaves for its way back: what is the same for every network, and parts of the network's own. The next pass with the same
/// tape overwrites it.
package final class Tape {
  /// Whether layers keep their inputs only, from which they are computed once more on the way back.
  package let checkpointing: Bool
  /// What the next pass drops; nil for nothing.
  package var dropout: Dropout?
  /// What is added to the embeddings of the next pass; nil for nothing.
  package var noise: EmbeddingNoise?
  /// Whether the next pass normalizes batches by their own mean and variance, and moves the running ones.
  package var movesStatistics = false
  package let clock = StepClock()
  /// Of a language head.
  let head = LinearTape()
  /// Of the layers of a classification head.
  var dense: [DenseTape] = []
  /// What the norm of a classification head took.
  var beforeNorm = FloatStore(count: 0)
  private var own: [ObjectIdentifier: AnyObject] = [:]

  package init(checkpointing: Bool = true) { self.checkpointing = checkpointing }

  /// The network's own part, or that of a network in it, made by the first pass and kept for those that follow.
  ///
  /// - Parameter owner: the network, where there are several of its kind
  package func part<Part: AnyObject>(of owner: AnyObject? = nil, _ make: () -> Part) -> Part {
    let key = owner.map(ObjectIdentifier.init) ?? ObjectIdentifier(Part.self)
    if let part = own[key] as? Part { return part }
    let part = make()
    own[key] = part
    return part
  }
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

  func clear() {
    changes.removeAll()
    unscaled.removeAll()
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
