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
  /// What makes its pairs of numbers that training changes.
  private let folded: [any AdapterMethod]

  typealias Floats = UnsafeMutablePointer<Float>

  enum Slot { static let gradient = 0 }

  /// - Parameter checkpointing: keeps only the inputs of layers, and recomputes the layers in the backward pass
  package init(_ model: Model, _ trained: Trained, checkpointing: Bool = true) {
    self.model = model
    self.trained = trained
    tape = Tape(checkpointing: checkpointing)
    gradients = trained.gradients
    let attached = trained.attached(to: model)
    adapter = ActiveAdapter(attached)
    folded = attached.methods.values.filter { type(of: $0).isMadeAnew }
  }

  var network: any Network { model.network }
  package var clock: StepClock { tape.clock }

  /// What is dropped in the next pass; nil for nothing.
  package var dropout: Dropout? {
    get { tape.dropout }
    set { tape.dropout = newValue }
  }

  /// The batch, with what is trained as it is now.
  func adapted(_ batch: Batch) -> Batch {
    clock.measure(.trained) { network.engine.team.run(folded.count) { index, _ in folded[index].fold() } }
    return batch.with([adapter])
  }

  /// Room for the gradient of the batch's states, of zeros.
  func stateGradient(_ batch: Batch) -> Floats {
    let count = network.rows(batch).reduce(0, +) * network.width
    let gradient = scratch.floatStart(Slot.gradient, count)
    gradient.update(repeating: 0, count: count)
    return gradient
  }
}
