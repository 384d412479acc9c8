import NibbleCompute
import NibbleCore

/// GLM-4.5: heads that are turned in part, and in all but the first layers DeepSeek-V3's experts.
enum Glm4Moe: Decoder {
  static let modelTypes = ["glm4_moe"]
  static let knownKeys: Set = ["num_local_experts", "num_experts", "use_qk_norm"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 151_552, inner: 10944, layers: 46, heads: 96, context: 131_072, keyValueHeads: 8, epsilon: 1e-5,
      rotary: .init(part: 0.5, hasParts: true))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    return try decoderShape(config)
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    var names = DecoderNames(queryKeyValueBias: try config.bool("attention_bias", default: false))
    if try config.bool("use_qk_norm", default: false) { names.headNorms = ("self_attn.q_norm", "self_attn.k_norm", byHead: true) }
    names.experts = try config.correctedExperts(
      shape.layers, UsualExperts(count: 128, inner: 1408, firstLayer: 1, used: 8, groups: 1, usedGroups: 1, scale: 1))
    names.ignored = try config.predictingLayers(behind: shape.layers)
    return names
  }
}
