import NibbleCompute
import NibbleCore
import NibbleModels
import Testing

/// Checks the gradients of numbers against slopes of a sum of a network's states with random weights, whatever its inputs are.
func checkSlopes(
  of network: any Network, _ batch: Batch, _ tape: Tape, _ gradients: Gradients,
  _ trained: [(name: String, values: FloatStore, gradient: FloatStore)]
) throws {
  let count = network.rows(batch).reduce(0, +) * network.width
  let random = CountedRandom(seed: 5, stream: 0)
  let weights = FloatStore((0..<count).map { Float(random.normal(UInt64($0))) })
  func sum(_ tape: Tape? = nil) throws -> Double {
    let hidden = try network.hidden(batch, tape: tape)
    return (0..<count).reduce(0.0) { $0 + Double(weights.start[$1]) * Double(hidden[$1]) }
  }
  _ = try sum(tape)
  let gradient = FloatStore(Array(weights.values))
  try withExtendedLifetime(gradient) { try network.backward(batch, gradient.start, tape: tape, gradients) }
  for (name, values, gradient) in trained {
    let slopes = Array(gradient.values), kept = Array(values.values)
    // Along the gradient itself the slope is its square.
    let square = slopes.reduce(0) { $0 + Double($1) * Double($1) }
    #expect(square > 0)
    let step = Float(0.01 / square.squareRoot())
    for index in kept.indices { values.start[index] = kept[index] + step * slopes[index] }
    let above = try sum()
    for index in kept.indices { values.start[index] = kept[index] - step * slopes[index] }
    let below = try sum()
    for index in kept.indices { values.start[index] = kept[index] }
    let slope = (above - below) / Double(2 * step)
    #expect(abs(slope - square) <= 0.02 * square, "\(name): \(slope), \(square)")
  }
}
