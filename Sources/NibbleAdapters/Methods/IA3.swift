import NibbleCompute
import NibbleCore

/// (IA)³, arXiv:2205.05638: y = l∘(x · Wᵀ + b), or of feed-forward modules y = (x∘l) · Wᵀ + b.
package struct IA3: AdapterMethod {
  private static let vector = "ia3_l"
  /// Whether the inputs are scaled.
  private static let feedForward = "feedforward_modules"

  package static let name = "(IA)³"
  package static let kind = "IA3"
  package static let keys: Set<String> = ["init_ia3_weights"]
  package static let settings = [MethodSetting(feedForward, modules: .endOfMLP)]
  package static let scalesOutputs = true, scalesBias = true, changesInputs = true
  package static let parts = [
    MethodPart(vector, suffixes: [".ia3_l"]) { module in
      module.settings[feedForward] == 1 ? [1, module.inputs ?? 0] : [module.outputs ?? 0, 1]
    }
  ]

  /// The shape shows which module is feed-forward. PEFT has no difference between those of convolutions.
  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let shape = parts[vector], shape.count == 2, !isEmbedding, shape.contains(1), !shape.contains(0) else { return nil }
    let asked = settings[feedForward] == 1
    let scalesInputs = shape == [1, 1] ? asked : shape[0] == 1
    return ModuleShape(
      input: scalesInputs ? [shape[1]] : nil, outputs: scalesInputs ? nil : shape[0],
      settings: [feedForward: scalesInputs ? 1 : 0])
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    [vector: [Float](repeating: 1, count: layer.settings[feedForward] == 1 ? layer.inputs : layer.outputs)]
  }

  private let scales: FloatStore
  private let scalesInputs: Bool

  package init?(_ numbers: MethodNumbers) {
    guard let scales = numbers.values[Self.vector] else { return nil }
    (self.scales, scalesInputs) = (scales, numbers.settings[Self.feedForward] == 1)
  }

  package var pair: LowRankPair? { nil }
  package var scale: FloatStore? { scalesInputs ? nil : scales }
  package var input: (any InputChange)? { scalesInputs ? InputScale(scales, part: Self.vector) : nil }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    guard !scalesInputs else { return }
    if let own = gradients[Self.vector] { for (o, sum) in outputs.productSums().enumerated() { own.start[o] += Float(sum) } }
    outputs.scale()
  }
}
