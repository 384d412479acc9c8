import NibbleCompute
import NibbleCore

/// Steps of one size in the direction of the sign of a mixture of momentum and gradient (Chen and others 2023), as bitsandbytes'.
package struct Lion: ElementwiseMethod {
  package static let name = "lion"
  package static let hasEightBitStates = true
  package static let settings: Set<Setting> = [.adamBeta1, .adamBeta2]
  package static let usualBeta2 = 0.99

  private let options: OptimizerOptions

  package init(_ options: OptimizerOptions) { self.options = options }

  package func states(of shape: [Int]) -> [OptimizerState] { [OptimizerState("first", shape.reduce(1, *), map: .signed)] }

  package func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep) {
    func pair(_ beta: Double) -> (Float, Float) { (Float(beta), Float(1 - beta)) }
    OptimizerKernels.lion(
      rate: Float(step.rate), keep: Float(1 - step.rate * step.decay), beta1: pair(options.beta1), beta2: pair(options.ownBeta2),
      values, gradient, states[0], count: count)
  }
}
