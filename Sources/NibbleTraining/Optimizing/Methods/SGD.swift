import NibbleCompute
import NibbleCore

/// Gradient descent, with momentum if that is asked for, as PyTorch's; in 8 bits as bitsandbytes'.
package struct SGD: ElementwiseMethod {
  package static let name = "sgd"
  package static let otherNames = ["sgd-torch"]
  package static let hasEightBitStates = true
  package static let settings: Set<Setting> = [.momentum]

  private let momentum: Double

  package init(_ options: OptimizerOptions) { momentum = options.momentum }

  package static func refusal(_ options: OptimizerOptions) -> MessageText? {
    guard options.choice.isEightBit, options.momentum == 0 else { return nil }
    return "\(.optimizer, "sgd-8bit") needs \(.momentum): without it there is no state to keep"
  }

  package func states(of shape: [Int]) -> [OptimizerState] {
    momentum == 0 ? [] : [OptimizerState("first", shape.reduce(1, *), map: .signed)]
  }

  package func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep) {
    OptimizerKernels.descend(
      rate: Float(step.rate), decay: Float(step.decay), momentum: Float(momentum), isFirst: step.number == 1, values, gradient,
      states.first, count: count)
  }
}
