import NibbleCompute
import NibbleCore

/// LoRA, arXiv:2106.09685: z = x · Wᵀ + scale · x · Aᵀ · Bᵀ, and what folds exactly into it (rsLoRA by its scale, IEC, QA-LoRA,
/// Q-BaRA). With `lora_bias` t = scale · bias.
package struct LoRA: AdapterMethod {
  package static let first = "lora_A", second = "lora_B", secondBias = "lora_B.bias"

  package static let name = "LoRA"
  package static let kind = "LORA"
  package static let looksUp = true
  package static let adaptsConvolutions = true
  package static let takesStarts = true

  static let factorParts = [
    MethodPart(first, suffixes: [".lora_A.weight", ".lora_embedding_A"], isFactor: true) { module in
      module.isTurned ? [module.rank, module.outputs ?? 0] : [module.rank] + (module.input ?? [])
    },
    MethodPart(second, suffixes: [".lora_B.weight", ".lora_embedding_B"], isFactor: true, isSecond: true) { module in
      module.isTurned ? [module.inputs ?? 0, module.rank] : [module.outputs ?? 0, module.rank] + (module.input ?? []).dropFirst().map { _ in 1 }
    },
  ]
  package static let parts =
    factorParts + [
      MethodPart(secondBias, suffixes: [".lora_B.bias"], flag: "lora_bias", isScaled: true, isSecond: true) { [$0.outputs ?? 0] }
    ]

  package static let keys = Set(variants).union([
    "r", "lora_alpha", "use_rslora", "use_dora", "use_qalora", "lora_bias", "rank_pattern", "alpha_pattern", "init_lora_weights", "lora_dropout",
    "megatron_config", "megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "runtime_config", "layer_replication", "target_parameters",
  ])

  /// Keys that make another method of it when set.
  private static let variants = [
    "alora_invocation_tokens", "arrow_config", "velora_config",
    "monteclora_config", "kasa_config", "use_bdlora",
  ]
  /// Starts that change the base too.
  private static let changesBase = ["pissa", "olora", "corda", "lora_ga", "loftq"]

  package static func refusal(_ config: JSON) -> MessageText? {
    for key in variants {
      guard let found = config[key], ![.null, .bool(false), .object([]), .array([])].contains(found) else { continue }
      return "\(key: key) = \(quoted(found.text())) is not implemented"
    }
    guard let start = config["init_lora_weights"]?.string, changesBase.contains(where: { start.hasPrefix($0) }) else { return nil }
    return "\(key: "init_lora_weights") = \(quoted(start)): such adapters fit only the base their training had changed; "
      + "save them converted to plain LoRA (PEFT: path_initial_model_for_weight_conversion)"
  }

  /// From A, [rank, inputs], and B, [outputs, rank]; of convolutions [rank, channels, height, width] and [outputs, rank, 1, 1].
  package static func shape(of parts: [String: [Int]], isEmbedding: Bool, settings: MethodSettings) -> ModuleShape? {
    guard let a = parts[first], let b = parts[second], a.count == b.count, a.count == 2 || a.count == 4 && !isEmbedding else {
      return nil
    }
    guard a[0] > 0, b[1] == a[0], b[2...].allSatisfy({ $0 == 1 }) else { return nil }
    let kind: ModuleShape.Kind = isEmbedding ? .embedding : a.count == 4 ? .convolution : .linear
    return ModuleShape(kind, input: Array(a[1...]), outputs: b[0], rank: a[0])
  }

  /// A random and B zero; of an embedding, as in PEFT, the other way round: only rows that are looked up get a gradient.
  package static func start(_ layer: NewModule) -> [String: [Float]] {
    guard layer.kind != .embedding else {
      return [
        first: [Float](repeating: 0, count: layer.rank * layer.inputs), second: layer.normal([layer.outputs, layer.rank], deviation: 1, 1),
      ]
    }
    return [first: layer.factors.first(layer), second: [Float](repeating: 0, count: layer.outputs * layer.rank)]
  }

  private let factors: LowRankPair
  /// Of an embedding, the factor that is looked up, as numbers.
  private let table: FloatStore?
  private let secondBias: FloatStore?

  package init?(_ numbers: MethodNumbers) {
    guard let a = numbers.matrices[Self.first], let b = numbers.matrices[Self.second] else { return nil }
    let isTurned = numbers.shape.isTurned
    factors = isTurned ? LowRankPair(turning: a, b, scale: numbers.scale) : LowRankPair(a: a, b: b, scale: numbers.scale)
    (table, secondBias) = (numbers.values[isTurned ? Self.second : Self.first], numbers.values[Self.secondBias])
  }

  package var pair: LowRankPair? { factors }
  package var lookup: EmbeddingTerm? { table.map { EmbeddingTerm(a: $0, factors) } }
  package var bias: FloatStore? { secondBias.map { bias in FloatStore(bias.values.map { Float(factors.scale * Double($0)) }) } }

  package func backward(_ outputs: OutputGradient, _ gradients: PartGradients) {
    if let own = gradients[Self.secondBias] { outputs.addSums(scaledBy: Float(factors.scale), to: own) }
  }

  package var isDead: Bool { factors.scale == 0 || factors.isZero && secondBias?.values.allSatisfy { $0 == 0 } ?? true }
}
