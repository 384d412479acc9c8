import NibbleCompute
import NibbleCore

/// DoRA, arXiv:2402.09353: the rows of W + scale · B · A scaled to trained lengths, s = m / n.
package struct DoRA: LinearMethod {
  package static let magnitude = "lora_magnitude_vector"

  private let lora: LoRA
  private let factors: LowRankPair
  /// m, [outputs]
  private let magnitudes: FloatStore
  /// s, where nothing changes it.
  private let fixed: FloatStore?
  private let base = BaseLengths()

  package init?(_ numbers: MethodNumbers) {
    guard let pair = numbers.pair, let magnitudes = numbers.parts[Self.magnitude], let lora = LoRA(numbers) else { return nil }
    (self.lora, factors, self.magnitudes) = (lora, pair, magnitudes)
    fixed = numbers.weight.map { weight in
      FloatStore(zip(magnitudes.values, RowNorms.norms(weight, adding: pair, numbers.engine)).map { Float(Double($0) / $1) })
    }
  }

  package var pair: LowRankPair? { factors }
  package var scalesOutputs: Bool { true }

  package func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange {
    var change = lora.outputs(of: weight, engine)
    if let fixed {
      change.scale = fixed
    } else {
      change.kept = norms(weight, engine)
      change.scale = FloatStore(zip(magnitudes.values, change.kept).map { $0 / $1 })
    }
    return change
  }

  /// n taken as given: dm = Σ dy∘z / n, dz = (m / n)∘dy.
  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    lora.backward(outputs, gradients)
    if let own = gradients[Self.magnitude], outputs.change.kept.count == outputs.count {
      for o in 0..<outputs.count { own.start[o] += Float(outputs.productSum(o) / Double(outputs.change.kept[o])) }
    }
    outputs.scale()
  }

  /// Lengths of the rows of W + D, D = scale · B · A, without making D:
  /// ‖w + d‖² = ‖w‖² + 2 · scale · b · (A w) + scale² · b · (A Aᵀ) · bᵀ.
  private func norms(_ weight: Matrix, _ engine: Engine) -> [Float] {
    let (rank, outputs, inputs) = (factors.rank, weight.outputs, weight.inputs)
    let projected = FloatStore(count: rank * outputs), gram = FloatStore(count: rank * rank)
    let a = RowNorms.values(factors.a), second = RowNorms.values(factors.b)
    engine.multiply(a.start, rows: rank, stride: inputs, [.init(weight, projected.start, stride: outputs)])
    engine.multiply(a.start, rows: rank, stride: inputs, [.init(factors.a, gram.start, stride: rank)])
    let own = base.squares(weight, engine)
    let scale = Double(factors.scale)
    let b = second.start
    return (0..<outputs).map { o in
      var cross = 0.0, square = 0.0
      for k in 0..<rank {
        let left = Double(b[o * rank + k])
        cross += left * Double(projected.start[k * outputs + o])
        for l in 0..<rank { square += left * Double(gram.start[k * rank + l]) * Double(b[o * rank + l]) }
      }
      return Float(max(0, own[o] + 2 * scale * cross + scale * scale * square).squareRoot())
    }
  }

  /// Squared lengths of a frozen weight's rows, found once.
  private final class BaseLengths: @unchecked Sendable {
    private var known: [Double]?

    func squares(_ weight: Matrix, _ engine: Engine) -> [Double] {
      if let known { return known }
      let squares = RowNorms.squares(weight, engine)
      known = squares
      return squares
    }
  }
}
