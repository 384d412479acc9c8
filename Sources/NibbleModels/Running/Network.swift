import NibbleCompute

/// What computes a model: inputs, be they tokens or images, become states, which a head or a loss looks at, and the gradient of these
/// states finds what is trained. `Transformer` is one.
package protocol Network: AnyObject {
  /// One of a batch.
  associatedtype Input
  /// What a pass leaves for its way back.
  associatedtype Tape

  /// The states of a batch, which hold until the next pass.
  ///
  /// - Parameter tape: gets what the way back needs; nil where there is none, and nothing is kept
  func hidden(_ inputs: [Input], tape: Tape?) throws -> UnsafePointer<Float>

  /// Adds to the gradients of everything trained.
  ///
  /// - Parameters:
  ///   - gradient: of the states; spoiled
  ///   - tape: of `hidden` with the same inputs
  func backward(
    _ inputs: [Input], _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws
}

extension Transformer: Network {}
