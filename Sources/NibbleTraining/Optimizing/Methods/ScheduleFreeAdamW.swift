import Glibc
import NibbleCompute
import NibbleCore

/// AdamW without a schedule (Defazio and others 2024), as `AdamWScheduleFree` of the package `schedulefree`.
///
/// The gradient is taken at y, which lies between z, the sequence that steps, and x, the mean of z over the run. y is what is trained; x is what
/// is validated and written.
package struct ScheduleFreeAdamW: ElementwiseMethod {
  package static let name = "schedule-free-adamw"
  package static let otherNames = ["adamw-schedule-free", "schedulefree-adamw"]
  package static let isScheduleFree = true
  package static let settings = Adam.settings

  private let options: OptimizerOptions
  /// The weights of the mean so far, and the greatest rate.
  package var numbers = [0.0, 0.0]
  /// Of this step's z in the mean.
  private var weight = 0.0

  package init(_ options: OptimizerOptions) { self.options = options }

  package static func refusal(_ options: OptimizerOptions) -> MessageText? {
    options.beta1 > 0 ? nil : "\(.adamBeta1, options.beta1) gives \(.optimizer, name) no mean of its steps; it must be above 0"
  }

  package func states(of shape: [Int]) -> [OptimizerState] {
    let count = shape.reduce(1, *)
    return [OptimizerState("z", count, beginsAsValues: true), OptimizerState("second", count)]
  }

  /// Later z weigh as much as earlier ones, those of the warm-up by the square of their rate.
  package mutating func begin(_ number: Int, rate: Double) {
    let greatest = max(rate, numbers[1])
    let own = greatest * greatest
    numbers = [numbers[0] + own, greatest]
    weight = numbers[0] > 0 ? own / numbers[0] : 0
  }

  package func move(_ values: Floats, _ gradient: Floats, _ states: [Floats], count: Int, _ step: OptimizerStep) {
    let beta2 = options.ownBeta2
    let numbers = OptimizerKernels.ScheduleFree(
      rate: Float(step.rate), slope: Float(step.rate * (options.beta1 * (1 - weight) - 1)), weight: Float(weight),
      decay: Float(step.decay), beta2: Float(beta2), secondShare: Float(1 - beta2),
      correction: Float(1 - pow(beta2, Double(step.number))), epsilon: Float(options.epsilon))
    OptimizerKernels.scheduleFree(numbers, values, gradient, states[0], states[1], count: count)
  }

  package var hasAverages: Bool { true }

  /// x = y + (1 − 1 / β₁)(z − y)
  package func average(_ values: UnsafeMutablePointer<Float>, _ states: [StateStore], count: Int) {
    OptimizerKernels.move(values, towards: states[0].floats(from: 0), by: Float(1 - 1 / options.beta1), count: count)
  }
}
