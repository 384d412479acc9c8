import NibbleCompute

/// LoRA, arXiv:2106.09685: z = x · Wᵀ + scale · x · Aᵀ · Bᵀ, and what folds exactly into it (rsLoRA by its scale, IEC, QA-LoRA,
/// Q-BaRA). With `lora_bias` t = scale · bias.
package struct LoRA: LinearMethod {
  /// Names of its numbers in adapter files.
  package static let first = "lora_A", second = "lora_B", secondBias = "lora_B.bias"

  private let factors: LowRankPair
  /// [outputs]
  private let bias: FloatStore?

  package init(_ factors: LowRankPair, bias: FloatStore? = nil) { (self.factors, self.bias) = (factors, bias) }

  package init?(_ numbers: MethodNumbers) {
    guard let pair = numbers.pair else { return nil }
    self.init(pair, bias: numbers.parts[Self.secondBias])
  }

  package var pair: LowRankPair? { factors }
  package var scalesOutputs: Bool { false }

  package func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange {
    OutputChange(bias: bias.map { bias in FloatStore(bias.values.map { $0 * factors.scale }) })
  }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    guard let own = gradients[Self.secondBias] else { return }
    let sums = FloatStore(count: outputs.count)
    sums.values.update(repeating: 0)
    outputs.engine.addColumnSums(outputs.dy, stride: outputs.stride, rows: outputs.rows, count: outputs.count, to: sums.start)
    LayerKernels.add(sums.start, scaledBy: factors.scale, count: outputs.count, to: own.start)
  }
}
