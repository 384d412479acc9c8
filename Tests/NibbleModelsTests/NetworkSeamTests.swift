import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels
import TestSupport
import Testing

/// One convolution over images of 4 × 4, 3 × 3 without padding, tanh behind it: a network that exists for these tests alone, and
/// whose inputs are no tokens.
private final class Convolution: Network {
  struct Image { var pixels: [Float] }
  final class Tape { var outputs: [Float] = [] }

  static let parameter: ParameterID = 0
  let kernel: FloatStore
  private var states = FloatStore(count: 0)

  init() {
    let random = CountedRandom(seed: 1, stream: 0)
    kernel = FloatStore((0..<9).map { Float(random.normal(UInt64($0))) })
  }

  /// The pixels and numbers of the kernel that make output `at`.
  private func taps(_ at: Int) -> [(pixel: Int, number: Int)] {
    (0..<9).map { ((at / 2 + $0 / 3) * 4 + at % 2 + $0 % 3, $0) }
  }

  func hidden(_ images: [Image], tape: Tape?) throws -> UnsafePointer<Float> {
    states = FloatStore(count: 4 * images.count)
    for (index, image) in images.enumerated() {
      for at in 0..<4 {
        states.start[4 * index + at] = taps(at).reduce(0) { $0 + image.pixels[$1.pixel] * kernel.start[$1.number] }
      }
    }
    LayerKernels.activate(.tanh, states.start, count: states.count, states.start)
    tape?.outputs = Array(states.values)
    return UnsafePointer(states.start)
  }

  func backward(_ images: [Image], _ gradient: UnsafeMutablePointer<Float>, tape: Tape, _ gradients: Gradients) throws {
    guard let own = gradients.vectors[Self.parameter] else { return }
    for (index, image) in images.enumerated() {
      for at in 0..<4 {
        let y = tape.outputs[4 * index + at]
        for tap in taps(at) { own.start[tap.number] += gradient[4 * index + at] * (1 - y * y) * image.pixels[tap.pixel] }
      }
    }
  }
}

/// Checks the gradients of numbers against slopes of a sum of a network's states with random weights, whatever its inputs are.
func checkSlopes<Some: Network>(
  of network: Some, _ inputs: [Some.Input], states count: Int, _ tape: Some.Tape, _ gradients: Gradients,
  _ trained: [(name: String, values: FloatStore, gradient: FloatStore)]
) throws {
  let random = CountedRandom(seed: 5, stream: 0)
  let weights = FloatStore((0..<count).map { Float(random.normal(UInt64($0))) })
  func sum(_ tape: Some.Tape? = nil) throws -> Double {
    let hidden = try network.hidden(inputs, tape: tape)
    return (0..<count).reduce(0.0) { $0 + Double(weights.start[$1]) * Double(hidden[$1]) }
  }
  _ = try sum(tape)
  let gradient = FloatStore(Array(weights.values))
  try withExtendedLifetime(gradient) { try network.backward(inputs, gradient.start, tape: tape, gradients) }
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

@Suite("A network of images")
struct NetworkSeamTests {
  @Test("has the slopes of its states for gradients")
  func slopes() throws {
    let network = Convolution()
    let random = CountedRandom(seed: 2, stream: 0)
    let images = (0..<3).map { image in
      Convolution.Image(pixels: (0..<16).map { Float(0.5 * random.normal(UInt64(16 * image + $0))) })
    }
    var gradients = Gradients()
    let gradient = FloatStore([Float](repeating: 0, count: 9))
    gradients.vectors[Convolution.parameter] = gradient
    try checkSlopes(
      of: network, images, states: 12, Convolution.Tape(), gradients, [("kernel", network.kernel, gradient)])
  }
}
