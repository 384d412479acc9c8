import NibbleCompute
import NibbleCore

/// DoRA, arXiv:2402.09353: the rows of W + scale · B · A scaled to trained lengths, s = m / n.
package struct DoRA: AdapterMethod {
  package static let magnitude = "lora_magnitude_vector"

  package static let name = "DoRA"
  package static let kind = LoRA.kind
  package static let flag: String? = "use_dora"
  package static let flagIsCommon = true
  package static let keys = LoRA.keys
  package static let scalesOutputs = true
  package static let looksUp = true
  package static let adaptsConvolutions = true
  package static let parts =
    LoRA.factorParts + [
      MethodPart(magnitude, suffixes: [".lora_magnitude_vector", ".lora_magnitude_vector.weight"]) { module in
        let outputs = module.outputs ?? 0
        return module.kind == .convolution ? [1, outputs, 1, 1] : [outputs]
      }
    ]

  package static func refusal(_ config: JSON) -> MessageText? { LoRA.refusal(config) }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    LoRA.shape(of: parts, isEmbedding: isEmbedding, settings: settings)
  }

  /// m is the rows' own lengths.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    var numbers = LoRA.start(layer)
    numbers[magnitude] = layer.lengths.map { Float($0) }
    return numbers
  }

  private let factors: LowRankPair
  package let lookup: EmbeddingTerm?
  /// m, [outputs]
  private let magnitudes: FloatStore
  /// s, where nothing changes it.
  private let fixed: FloatStore?
  private let base = BaseLengths()

  package init?(_ numbers: MethodNumbers) {
    guard let plain = LoRA(numbers), let pair = plain.pair, let magnitudes = numbers.values[Self.magnitude] else { return nil }
    (factors, lookup, self.magnitudes) = (pair, plain.lookup, magnitudes)
    fixed = numbers.weight.map { weight in
      let squares = MatrixLengths(weight, numbers.engine).squares(adding: pair)
      return FloatStore(zip(magnitudes.values, squares).map { Float(Double($0) / $1.squareRoot()) })
    }
  }

  package var pair: LowRankPair? { factors }

  package func scales(_ lengths: any RowLengths) throws -> [Double]? {
    zip(magnitudes.values, try lengths.norms(adding: factors)).map { Double($0) / $1 }
  }

  package func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange {
    if let fixed { return OutputChange(scale: fixed) }
    let norms = norms(weight, engine)
    return OutputChange(scale: FloatStore(zip(magnitudes.values, norms).map { $0 / $1 }), kept: norms)
  }

  /// n taken as given: dm = Σ dy∘z / n, dz = (m / n)∘dy.
  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    if let own = gradients[Self.magnitude], outputs.change.kept.count == outputs.count {
      for (o, sum) in outputs.productSums().enumerated() { own.start[o] += Float(sum / Double(outputs.change.kept[o])) }
    }
    outputs.scale()
  }

  /// Lengths of the rows of W + D, D = scale · B · A, without making D, which would cost a step too much:
  /// ‖w + d‖² = ‖w‖² + 2 · scale · b · (A w) + scale² · b · (A Aᵀ) · bᵀ.
  private func norms(_ weight: Matrix, _ engine: Engine) -> [Float] {
    let (rank, outputs, inputs) = (factors.rank, weight.outputs, weight.inputs)
    let projected = FloatStore(count: rank * outputs), gram = FloatStore(count: rank * rank)
    let (a, b) = factors.values
    a.withUnsafeBufferPointer { a in
      guard let a = a.baseAddress else { return }
      engine.multiply(a, rows: rank, stride: inputs, [.init(weight, projected.start, stride: outputs)])
      engine.multiply(a, rows: rank, stride: inputs, [.init(factors.a, gram.start, stride: rank)])
    }
    let own = base.squares(weight, engine)
    return b.withUnsafeBufferPointer { b in
      (0..<outputs).map { o in
        var cross = 0.0, square = 0.0
        for k in 0..<rank {
          let left = Double(b[o * rank + k])
          cross += left * Double(projected.start[k * outputs + o])
          for l in 0..<rank { square += left * Double(gram.start[k * rank + l]) * Double(b[o * rank + l]) }
        }
        return Float(max(0, own[o] + 2 * factors.scale * cross + factors.scale * factors.scale * square).squareRoot())
      }
    }
  }

  /// Squared lengths of a frozen weight's rows, found once.
  private final class BaseLengths: @unchecked Sendable {
    private var known: [Double]?

    func squares(_ weight: Matrix, _ engine: Engine) -> [Double] {
      if let known { return known }
      let squares = MatrixLengths(weight, engine).squares(adding: nil)
      known = squares
      return squares
    }
  }
}
