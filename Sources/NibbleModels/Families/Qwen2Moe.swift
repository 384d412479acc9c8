import NibbleCompute
import NibbleCore

/// Qwen2-MoE: a Qwen2 with experts in the place of the MLP of most layers, and beside them one that every token takes through a gate.
enum Qwen2Moe: Decoder {
  static let modelTypes = ["qwen2_moe"]
  static let knownKeys: Set = ["num_experts"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(vocabulary: 151_936, width: 2048, inner: 5632, layers: 24, heads: 16, context: 32768, keyValueHeads: 16)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    var shape = try decoderShape(config)
    let isOn = try config.bool("use_sliding_window", default: false)
    let first = try config.int("max_window_layers", 0...Limits.layers.upperBound, default: 28)
    // Every other one of the lower layers.
    let usual = (0..<shape.layers).map { isOn && $0 % 2 == 0 && $0 < first }
    let isSliding = try config.slidingLayers(shape.layers) ?? usual
    guard isOn || !isSliding.contains(true) else {
      throw config.fail("\(key: "layer_types"): layers see a window, and use_sliding_window is false")
    }
    shape.windows = try config.windows(isSliding, isOn ? config.window(default: 4096) : nil)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    var names = DecoderNames(queryKeyValueBias: try config.bool("qkv_bias", default: true))
    let count = try config.expertCount(["num_experts"], default: 60, least: 0)
    guard count > 0 else { return names }
    names.experts = DecoderExperts(
      shared: .init(
        name: "mlp.shared_expert", gate: "mlp.shared_expert_gate",
        inner: try config.int("shared_expert_intermediate_size", Limits.width, default: 5632)),
      count: count,
      rule: RoutingRule(
        used: try config.usedExperts(of: count, default: 4), addsUp: try config.bool("norm_topk_prob", default: false)),
      inner: try config.int("moe_intermediate_size", Limits.width, default: 1408), layers: try config.sparseLayers(shape.layers))
    return names
  }
}
