import NibbleCompute
import NibbleCore

/// OLMoE: a Llama with norms of all queries and all keys of a token, and experts in the place of the MLP.
enum Olmoe: Decoder {
  static let modelTypes = ["olmoe"]
  static let knownKeys: Set = ["num_local_experts", "num_experts"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(vocabulary: 50304, width: 2048, inner: 2048, layers: 16, heads: 16, context: 4096, epsilon: 1e-5, padding: 1)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    return try decoderShape(config)
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    let count = try config.expertCount(default: 64)
    let experts = DecoderExperts(
      count: count,
      rule: RoutingRule(
        used: try config.usedExperts(of: count, default: 8), addsUp: try config.bool("norm_topk_prob", default: false)),
      inner: try inner(shape, config), layers: Array(repeating: true, count: shape.layers))
    return DecoderNames(
      headNorms: ("self_attn.q_norm", "self_attn.k_norm", byHead: false), experts: experts, queryKeyValueBias: bias, outputBias: bias)
  }
}
