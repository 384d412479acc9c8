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

  typealias Floats = UnsafeMutablePointer<Float>

  enum Slot { static let gradient = 0 }

  /// - Parameter checkpointing: keeps only the inputs of layers, and recomputes the layers in the backward pass
  package init(_ model: Model, _ trained: Trained, checkpointing: Bool = true) {
    self.model = model
    self.trained = trained
    tape = Tape(checkpointing: checkpointing)
    gradients = trained.gradients
    adapter = ActiveAdapter(trained.attached(to: model))
  }

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

  /// The share of the targets that the next passes spread over all classes.
  package var labelSmoothing = 0.0

  /// The batch, with what is trained.
  func adapted(_ batch: Batch) -> Batch { batch.with([adapter]) }

  /// Room for the gradient of the batch's states, of zeros.
  func stateGradient(_ batch: Batch) -> Floats {
    let count = network.rows(batch).reduce(0, +) * network.width
    let gradient = scratch.floatStart(Slot.gradient, count)
    gradient.update(repeating: 0, count: count)
    return gradient
  }
}
