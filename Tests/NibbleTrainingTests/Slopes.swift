import NibbleTraining
import Testing

/// Checks the gradients of all that is trained, which `loss` has just left, against slopes of the loss.
///
/// - Parameter change: of the loss, by a step along a tensor's gradient: small where the loss bends
func checkSlopes(of trained: Trained, change: Double = 0.02, _ loss: () throws -> Double) throws {
  for tensor in trained.tensors {
    // Along the gradient itself the slope is its square.
    let gradient = Array(tensor.gradient.values), kept = Array(tensor.values.values)
    let square = gradient.reduce(0) { $0 + Double($1) * Double($1) }
    #expect(square > 0, "\(tensor.name)")
    // A lone number with a small gradient would go far beyond where the loss is straight.
    let step = Float(min(change / square.squareRoot(), 0.3 / Double(gradient.reduce(Float(0)) { max($0, abs($1)) })))
    for i in kept.indices { tensor.values.values[i] = kept[i] + step * gradient[i] }
    let above = try loss()
    for i in kept.indices { tensor.values.values[i] = kept[i] - step * gradient[i] }
    let below = try loss()
    for i in kept.indices { tensor.values.values[i] = kept[i] }
    let slope = (above - below) / Double(2 * step)
    #expect(abs(slope - square) <= 0.01 * square + 1e-6 / Double(step), "\(tensor.name): \(slope), \(square)")
  }
}
