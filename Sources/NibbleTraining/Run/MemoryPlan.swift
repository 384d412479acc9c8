import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// What a training run takes of memory, before it starts.
public struct MemoryPlan: Sendable {
  /// The base's weights, which are mapped and looked at in every step.
  public var weights = 0
  /// What is trained.
  public var trained = 0
  public var gradients = 0
  /// Of the optimizer.
  public var moments = 0
  /// What passes leave for their way back.
  public var activations = 0
  /// Room for work in hand, and the program itself.
  public var rest = 0

  public var total: Int { weights + trained + gradients + moments + activations + rest }

  /// - Parameter length: tokens of the rows of a micro-batch, as long as the longest
  package init(_ model: Model, _ trained: Trained, _ options: RunOptions, length: Int, threads: Int) {
    let shape = model.transformer.shape
    let layers = model.transformer.weights.layers
    let rows = options.batchSize * length
    let numbers = trained.tensors.reduce(0) { $0 + $1.values.count }
    weights = model.checkpoint.storedBytes
    self.trained = 4 * numbers
    gradients = 4 * numbers
    moments = options.optimizer.kind == .sgd ? (options.optimizer.momentum == 0 ? 0 : 4 * numbers) : 8 * numbers
    let attention = shape.queryWidth + 2 * shape.keyValueWidth
    let tape = layers.map { layer in
      3 * shape.width + attention + shape.queryWidth + layer.upWidth + layer.down.inputs
    }
    let kept = options.checkpointing ? tape.max() ?? 0 : tape.reduce(0, +)
    let dora = layers.flatMap(\.linears)
      .filter { trained.factors[$0.id]?.method(model.transformer.engine)?.scalesOutputs ?? false }.map(\.outputs)
    let unscaled = options.checkpointing ? (dora.reduce(0, +) / max(layers.count, 1)) : dora.reduce(0, +)
    activations = 4 * rows * ((layers.count + 1) * shape.width + kept + unscaled)
    let inner = layers.map(\.down.inputs).max() ?? 0,
      wide = max(attention, layers.map(\.upWidth).max() ?? 0)
    var hands = rows * (4 * shape.width + inner + wide)
    switch model.transformer.weights.head {
    case .language(let head): hands += min(rows, 256) * (head.outputs + 2 * shape.width)
    case .classification(let head):
      // Scores and gradients of the layers, and the weights of a head that came with no file.
      hands += options.batchSize * 4 * (head.output.outputs + shape.width)
      if model.newHead != nil { hands += head.output.outputs * shape.width }
    case .none: break
    }
    // Left sides of products, packed, and scores of attention.
    hands += rows * max(inner, wide) + threads * 2 * 64 * length
    // Low-rank products of a layer, packed and not, and a copy of what was trained while it is written.
    hands += rows * 4 * (trained.factors.values.map(\.rank).max() ?? 0) + numbers
    rest = 4 * hands + (34 << 20)
  }
}
