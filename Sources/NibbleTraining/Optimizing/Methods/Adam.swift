import Glibc
import NibbleCompute
import NibbleCore

/// Adam with the decay added to the gradient, as PyTorch's.
package struct Adam: ElementwiseMethod {
  package static let name = "adam"
  package static let otherNames = ["adam-torch"]
  package static let hasEightBitStates = true
  package static let settings: Set<Setting> = [.adamBeta1, .adamBeta2, .adamEpsilon]

  private let options: OptimizerOptions

  package init(_ options: OptimizerOptions) { self.options = options }

  package func states(of shape: [Int]) -> [OptimizerState] { Self.moments(shape) }

  package func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep) {
    let numbers = Self.numbers(options, step, keep: 1, coupled: Float(step.decay))
    OptimizerKernels.adam(numbers, values, gradient, states[0], states[1], count: count)
  }

  /// The two moments: the second is never negative.
  static func moments(_ shape: [Int]) -> [OptimizerState] {
    let count = shape.reduce(1, *)
    return [OptimizerState("first", count, map: .signed), OptimizerState("second", count, map: .unsigned)]
  }

  /// The corrections of the moments for their start at zero (Kingma and Ba 2015, section 3), in float64.
  ///
  /// With states in 8 bits both sides of the quotient are multiplied by √(1 − β₂ᵗ), as bitsandbytes does: a division less.
  static func numbers(_ options: OptimizerOptions, _ step: OptimizerStep, keep: Float, coupled: Float) -> OptimizerKernels.Adam {
    let (beta1, beta2, number) = (options.beta1, options.ownBeta2, Double(step.number))
    let size = step.rate / (1 - pow(beta1, number)), root = (1 - pow(beta2, number)).squareRoot()
    let factor = options.choice.isEightBit ? root : 1
    return OptimizerKernels.Adam(
      keep: keep, coupled: coupled, firstShare: Float(1 - beta1), beta2: Float(beta2), secondShare: Float(1 - beta2),
      size: Float(size * factor), root: Float(root / factor), epsilon: Float(options.epsilon * factor))
  }
}
