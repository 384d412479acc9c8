import NibbleCore
import NibbleFormats
import NibbleModels

/// The memory a training run needs, estimated before it starts.
public struct MemoryPlan: Sendable {
  /// The base's weights, which are mapped and read in every step.
  public var weights = 0
  /// What is trained.
  public var trained = 0
  public var gradients = 0
  /// Of the optimizer, in memory.
  public var moments = 0
  /// Of the optimizer, in a file. No part of the total.
  public var paged = 0
  /// What the forward pass keeps for the backward pass.
  public var activations = 0
  /// Working buffers, and the program itself.
  public var rest = 0

  public var total: Int { weights + trained + gradients + moments + activations + rest }

  package init() {}

  /// - Parameter length: tokens of the rows of a micro-batch, as long as the longest, or positions of an image
  package init(_ model: Model, _ trained: Trained, _ options: RunOptions, length: Int, threads: Int) {
    let network = model.network
    let numbers = trained.tensors.reduce(0) { $0 + $1.values.count }
    weights = model.checkpoint.storedBytes
    self.trained = 4 * numbers
    gradients = 4 * numbers
    let optimizer = options.optimizer
    let states = Optimizer.stateBytes(optimizer, trained.tensors)
    (moments, paged) = optimizer.choice.isPaged ? (Optimizer.pagedBytes(optimizer, trained.tensors), states) : (states, 0)
    let scaled = trained.modules.filter { $0.value.method.scalesOutputs }.keys
    let changed = options.mergeAware ? trained.modules.keys.map { $0 } : trained.modules.filter { !$0.value.isBarePair }.map(\.key)
    let pairs = trained.modules.values.map { (rank: $0.method.pairRank($0.shape), module: $0) }, rank = pairs.map(\.rank).max() ?? 0
    let room = network.room(
      PassSize(
        inputs: options.batchSize, length: length, threads: threads, checkpointing: options.checkpointing, scaled: Set(scaled),
        changed: Set(changed), rank: rank))
    activations = 4 * room.kept
    var hands = room.inHand
    switch network.head {
    case .language(let head): hands += min(room.rows, 256) * RowHead(head).room(network.width)
    case .masked(let head), .tokens(let head): hands += min(room.rows, 256) * head.room(network.width)
    case .classification(let head):
      // Scores and gradients of the layers, and the weights of a new head.
      hands += options.batchSize * 4 * (head.output.outputs + network.width)
      if model.newHead != nil { hands += head.output.outputs * network.width }
    case .spans(let head): hands += room.rows * head.room(network.width)
    case .none: break
    }
    // Low-rank products of a layer, packed and not, and a copy of what was trained while it is written.
    hands += room.rows * 4 * rank + numbers
    // Pairs that are made of what is trained.
    hands += pairs.filter { $0.module.method.folds }
      .reduce(0) { $0 + $1.rank * (($1.module.shape.inputs ?? 0) + ($1.module.shape.outputs ?? 0)) }
    // And the numbers that averages take the place of.
    if optimizer.choice.method.isScheduleFree { hands += numbers }
    rest = 4 * hands + (34 << 20) + (options.mergeAware ? RoundedWeights.bytes(model, trained) : 0)
  }
}
