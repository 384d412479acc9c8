import Glibc
import NibbleCompute
import NibbleCore

/// Options of the optimizers, which compute what PyTorch's of the same names do.
public struct OptimizerOptions: Sendable, Equatable {
  public enum Kind: String, Sendable, CaseIterable { case adamw, adam, sgd }

  public var kind = Kind.adamw
  public var learningRate = 2e-4
  /// LoRA+: multiplies the learning rate of the second factors.
  public var secondFactorRatio = 1.0
  public var beta1 = 0.9
  public var beta2 = 0.999
  public var epsilon = 1e-8
  public var weightDecay = 0.0
  /// Of SGD.
  public var momentum = 0.0
  /// The gradients are scaled down to this norm over all of them; 0 disables clipping.
  public var maximumNorm = 1.0

  /// AdamW as PyTorch has it by default.
  public init() {}
}

/// An optimizer's state: moments of each trained tensor, in the order of `Trained.tensors`.
package final class Optimizer {
  package let options: OptimizerOptions
  package let tensors: [TrainedTensor]
  /// First and second moments; only the first of SGD with momentum.
  package let first: [FloatStore]
  package let second: [FloatStore]
  /// Steps taken.
  package var steps = 0
  /// What else steps change, by name.
  package var more: [(name: String, values: FloatStore)] = []
  private let team: Team
  private static let run = 1 << 14

  package init(_ options: OptimizerOptions, _ tensors: [TrainedTensor], team: Team) {
    (self.options, self.tensors, self.team) = (options, tensors, team)
    func zeros(_ isNeeded: Bool) -> [FloatStore] {
      tensors.map { tensor in
        let store = FloatStore(count: isNeeded ? tensor.values.count : 0)
        store.values.update(repeating: 0)
        return store
      }
    }
    first = zeros(options.kind != .sgd || options.momentum != 0)
    second = zeros(options.kind != .sgd)
  }

  package func clearGradients() { for tensor in tensors { tensor.gradient.values.update(repeating: 0) } }

  /// The norm over all gradients; they are scaled down where it is above the maximum.
  ///
  /// - Returns: the norm before clipping
  package func clip() -> Double {
    var square = 0.0
    for tensor in tensors {
      let gradient = tensor.gradient.start
      for i in 0..<tensor.gradient.count { square += Double(gradient[i]) * Double(gradient[i]) }
    }
    let norm = square.squareRoot()
    let factor = options.maximumNorm / (norm + 1e-6)
    if options.maximumNorm > 0, factor < 1 {
      for tensor in tensors { for i in 0..<tensor.gradient.count { tensor.gradient.start[i] *= Float(factor) } }
    }
    return norm
  }

  /// One step at `rate`.
  package func step(rate: Double) {
    steps += 1
    for (index, tensor) in tensors.enumerated() {
      let own = rate * (tensor.isSecondFactor ? options.secondFactorRatio : 1)
      team.run(ceilDivide(tensor.values.count, Self.run)) { part, _ in
        let range = part * Self.run..<min((part + 1) * Self.run, tensor.values.count)
        update(tensor, index, range, own)
      }
    }
  }

  private func update(_ tensor: TrainedTensor, _ index: Int, _ range: Range<Int>, _ rate: Double) {
    let (p, g) = (tensor.values.start, tensor.gradient.start)
    let decay = Float(options.weightDecay)
    guard options.kind != .sgd else {
      let m = first[index].start
      for i in range {
        var d = g[i] + decay * p[i]
        if options.momentum != 0 {
          m[i] = steps == 1 ? d : Float(options.momentum) * m[i] + d
          d = m[i]
        }
        p[i] -= Float(rate) * d
      }
      return
    }
    let (m, v) = (first[index].start, second[index].start)
    let keep = Float(1 - rate * options.weightDecay)
    let (b1, b2) = (Float(1 - options.beta1), Float(options.beta2))
    let rest = Float(1 - options.beta2)
    let size = Float(rate / (1 - pow(options.beta1, Double(steps))))
    let root = Float((1 - pow(options.beta2, Double(steps))).squareRoot())
    let epsilon = Float(options.epsilon)
    for i in range {
      var d = g[i]
      if options.kind == .adamw { p[i] *= keep } else { d += decay * p[i] }
      m[i] += b1 * (d - m[i])
      v[i] = b2 * v[i] + rest * d * d
      p[i] -= size * m[i] / (v[i].squareRoot() / root + epsilon)
    }
  }
}
