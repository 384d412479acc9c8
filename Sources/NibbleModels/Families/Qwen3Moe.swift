import NibbleCompute
import NibbleCore

/// Qwen3-MoE: a Qwen3 with experts in the place of the MLP of most layers.
enum Qwen3Moe: Decoder {
  static let modelTypes = ["qwen3_moe"]
  static let knownKeys: Set = ["num_local_experts", "num_experts"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(vocabulary: 151_936, width: 2048, inner: 6144, layers: 24, context: 32768, keyValueHeads: 4)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    var shape = try decoderShape(config)
    guard try config.bool("use_sliding_window", default: false) else { return shape }
    let window = try config.window(default: 4096)
    shape.windows = Array(repeating: window, count: shape.layers)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    var names = DecoderNames(
      headNorms: ("self_attn.q_norm", "self_attn.k_norm", byHead: true), queryKeyValueBias: bias, outputBias: bias)
    let count = try config.expertCount(default: 128, least: 0)
    guard count > 0 else { return names }
    names.experts = DecoderExperts(
      count: count,
      rule: RoutingRule(
        used: try config.usedExperts(of: count, default: 8), addsUp: try config.bool("norm_topk_prob", default: false)),
      inner: try config.int("moe_intermediate_size", Limits.width, default: 768), layers: try config.sparseLayers(shape.layers))
    return names
  }
}
