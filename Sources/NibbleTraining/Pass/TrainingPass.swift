import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// The loss of a batch, and the gradients of what is trained, which is attached to the model as any adapter is.
package final class TrainingPass {
  let model: Model
  package let trained: Trained
  let tape: Tape
  let gradients: Gradients
  let scratch = Scratch()
  private let adapter: ActiveAdapter
  /// nil where products are made with the base's weights and the factors apart.
  private let rounded: RoundedWeights?
  /// What makes its pairs of numbers that training changes.
  private let folded: [any AdapterMethod]

  typealias Floats = UnsafeMutablePointer<Float>

  enum Slot { static let gradient = 0 }

  /// - Parameters:
  ///   - checkpointing: keeps only the inputs of layers, and recomputes the layers in the backward pass
  ///   - rounded: what packed layers compute with instead of their own weights and the factors
  init(_ model: Model, _ trained: Trained, checkpointing: Bool = true, rounded: RoundedWeights?) {
    self.model = model
    self.trained = trained
    tape = Tape(checkpointing: checkpointing)
    gradients = trained.gradients
    self.rounded = rounded
    let attached = trained.attached(to: model, merged: rounded?.merged)
    adapter = ActiveAdapter(attached)
    folded = attached.methods.values.filter { type(of: $0).isMadeAnew }
  }

  /// - Parameter checkpointing: keeps only the inputs of layers, and recomputes the layers in the backward pass
  package convenience init(_ model: Model, _ trained: Trained, checkpointing: Bool = true) {
    self.init(model, trained, checkpointing: checkpointing, rounded: nil)
  }

  /// Rounds the weights, where that is asked for: to be called when what is trained has changed.
  func round() throws { try rounded?.update() }

  var network: any Network { model.network }
  package var clock: StepClock { tape.clock }

  /// What is dropped in the next pass; nil for nothing.
  package var dropout: Dropout? {
    get { tape.dropout }
    set { tape.dropout = newValue }
  }

  /// What is added to the embeddings of the next pass; nil for nothing.
  package var noise: EmbeddingNoise? {
    get { tape.noise }
    set { tape.noise = newValue }
  }

  /// Whether the next passes normalize batches by their own mean and variance, and move the running ones, where these are trained.
  package var movesStatistics: Bool {
    get { tape.movesStatistics }
    set { tape.movesStatistics = newValue && !trained.statistics.isEmpty }
  }

  /// The share of the targets that the next passes spread over all classes.
  package var labelSmoothing = 0.0

  /// The batch, with what is trained as it is now.
  func adapted(_ batch: Batch) -> Batch { batch.with([current()]) }

  /// What is trained, as it is now.
  func current() -> ActiveAdapter {
    clock.measure(.trained) { network.engine.team.run(folded.count) { index, _ in folded[index].fold() } }
    return adapter
  }

  /// Room for the gradient of the batch's states, of zeros.
  func stateGradient(_ batch: Batch) -> Floats {
    let count = network.rows(batch).reduce(0, +) * network.width
    let gradient = scratch.floatStart(Slot.gradient, count)
    gradient.update(repeating: 0, count: count)
    return gradient
  }
}
