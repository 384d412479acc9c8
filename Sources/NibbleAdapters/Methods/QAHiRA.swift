import NibbleCompute
import NibbleCore

/// QA-HiRA, later renamed QA-BLoRA: one matrix C of a rank that nothing limits, for tiles of λ₂ outputs and λ₁ inputs.
///
///     z = x · Wᵀ + scale · repeat(C · pool(x))
///
/// pool takes the means of runs of λ₁ inputs, repeat gives each number to λ₂ outputs. C begins with zeros. The scale is alpha / r, as the
/// paper's program has it, though there is no rank. What is added is the same within a tile, so it merges into offsets of groups.
package struct QAHiRA: AdapterMethod {
  package static let tile = "lora_C"
  package static let inputs = MethodSetting("qahira_lambda_1", standard: 4, 1...4096)
  package static let outputs = MethodSetting("qahira_lambda_2", standard: 8, 1...4096)

  package static let name = "QA-HiRA"
  package static let kind = "QAHIRA"
  package static let keys = LoRA.keys
  package static let settings: [MethodSetting] = [inputs, outputs]
  package static let isInPEFT = false
  package static let hasScale = true
  package static let movesGroups = true
  package static let parts = [
    MethodPart(tile, suffixes: [".lora_C.weight"], isMatrix: true) {
      let (lambda1, lambda2) = tiles($0.settings)
      return [($0.outputs ?? 0) / lambda2, ($0.inputs ?? 0) / lambda1]
    }
  ]

  package static func refusal(_ config: JSON) -> MessageText? { LoRA.refusal(config) }

  private static func tiles(_ settings: MethodSettings) -> (inputs: Int, outputs: Int) {
    (max(1, Int(settings[inputs.key] ?? 1)), max(1, Int(settings[outputs.key] ?? 1)))
  }

  package static func sharedInputs(_ module: ModuleShape) -> Int { tiles(module.settings).inputs }
  package static func sharedOutputs(_ module: ModuleShape) -> Int { tiles(module.settings).outputs }

  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    let (lambda1, lambda2) = tiles(settings)
    guard let own = parts[tile], own.count == 2, !isEmbedding, let inputs = elementCount(of: [own[1], lambda1]),
      let outputs = elementCount(of: [own[0], lambda2])
    else { return nil }
    return ModuleShape(input: [inputs], outputs: outputs, settings: settings)
  }

  package static func refusal(of module: ModuleShape) -> MessageText? {
    let (lambda1, lambda2) = tiles(module.settings)
    guard let inputs = module.inputs, let outputs = module.outputs, inputs % lambda1 != 0 || outputs % lambda2 != 0 else { return nil }
    return "QA-HiRA needs tiles that divide its \(outputs) outputs and \(inputs) inputs; \(lambda2) x \(lambda1) does not"
  }

  package static func start(_ layer: NewModule) -> [String: [Float]] {
    let (lambda1, lambda2) = tiles(layer.settings)
    return [tile: [Float](repeating: 0, count: layer.outputs / lambda2 * (layer.inputs / lambda1))]
  }

  private let term: PooledTerm

  package init?(_ numbers: MethodNumbers) {
    guard let tiles = numbers.matrices[Self.tile] else { return nil }
    let (lambda1, lambda2) = Self.tiles(numbers.settings)
    term = PooledTerm(tiles, inputs: lambda1, outputs: lambda2, scale: numbers.scale)
  }

  package var pair: LowRankPair? { nil }
  package var pooled: PooledTerm? { term }
  package var pooledPart: String? { Self.tile }
  package var isDead: Bool { term.isZero }
}
