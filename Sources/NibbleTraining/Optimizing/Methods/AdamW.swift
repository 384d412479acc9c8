import NibbleCompute

/// Adam with the decay apart from the gradient (Loshchilov and Hutter 2019), as PyTorch's; in 8 bits as bitsandbytes'.
package struct AdamW: ElementwiseMethod {
  package static let name = "adamw"
  package static let otherNames = ["adamw-torch", "adamw-torch-fused", "adamw-hf", "adamw-apex-fused", "adamw-bnb"]
  package static let hasEightBitStates = true
  package static let settings = Adam.settings

  private let options: OptimizerOptions

  package init(_ options: OptimizerOptions) { self.options = options }

  package func states(of shape: [Int]) -> [OptimizerState] { Adam.moments(shape) }

  package func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep) {
    let numbers = Adam.numbers(options, step, keep: Float(1 - step.rate * step.decay), coupled: 0)
    OptimizerKernels.adam(numbers, values, gradient, states[0], states[1], count: count)
  }
}
