import NibbleCompute
import NibbleCore

/// What a method does in training beside computing gradients: a loss of its own, and changes of its numbers behind a step.
package protocol TrainingRule: AnyObject {
  /// Adds the gradients of its loss.
  ///
  /// - Returns: the loss
  func addLoss() -> Double
  /// Goes by the numbers and gradients that a step leaves.
  ///
  /// - Parameter step: counted from 1
  func stepped(_ step: Int)
  /// The numbers it goes on from, which checkpoints of a run hold.
  var state: [(name: String, values: FloatStore)] { get }
  /// What a configuration says of its outcome.
  var members: [(String, JSON)] { get }
  /// A tensor as adapters hold it, by its name in their files.
  func stored(_ name: String, _ shape: [Int], _ values: [Float]) -> (shape: [Int], values: [Float])
}

/// A module that a rule goes by.
package struct RuledModule {
  /// A part's numbers and their gradient.
  package struct Part {
    /// In adapter files.
    package let name: String
    package let shape: [Int]
    package let values: FloatStore
    package let gradient: FloatStore

    package init(name: String, shape: [Int], values: FloatStore, gradient: FloatStore) {
      (self.name, self.shape, self.values, self.gradient) = (name, shape, values, gradient)
    }
  }

  /// By the method's names.
  package let parts: [String: Part]
  package let settings: MethodSettings

  package init(parts: [String: Part], settings: MethodSettings) { (self.parts, self.settings) = (parts, settings) }
}
