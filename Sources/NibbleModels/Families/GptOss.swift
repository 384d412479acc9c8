import NibbleCompute
import NibbleCore

/// gpt-oss: experts with biases and a clamped gate in the place of the MLP, sinks of attention, windows in every other layer.
enum GptOss: Decoder {
  static let modelTypes = ["gpt_oss"]
  static let knownKeys: Set = ["num_local_experts", "num_experts"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 201_088, width: 2880, inner: 2880, layers: 36, heads: 64, context: 131_072, keyValueHeads: 8, headSize: 64,
      epsilon: 1e-5, rotary: RotaryPositions.Usual(base: 150_000))
  }

  /// What scales positions where a configuration says nothing of it.
  private static let scaling: JSON = [
    "rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096,
  ]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    // The experts have one gate, whatever this key says.
    var json = config.json.removing("hidden_act")
    if config["rope_parameters"] == nil, config["rope_scaling"]?.members?.isEmpty ?? true { json = json.setting("rope_parameters", to: scaling) }
    var shape = try decoderShape(ConfigReader(json, place: config.place))
    shape.clampedGate = ClampedGate(
      slope: Float(try config.double("swiglu_alpha", above: 0, default: 1.702)),
      limit: Float(try config.double("swiglu_limit", above: 0, default: 7)))
    let usual = (0..<shape.layers).map { $0 % 2 == 0 }
    shape.windows = try config.windows(config.slidingLayers(shape.layers) ?? usual, config.window(default: 128))
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: true)
    let count = try config.expertCount(default: 128)
    // A softmax over the experts that are taken is their part of one over all.
    let experts = DecoderExperts(
      router: "mlp.router", up: ["gate_up_proj"], hasBias: true, isTurned: true, count: count,
      rule: RoutingRule(used: try config.usedExperts(of: count, default: 4), addsUp: true), inner: try inner(shape, config),
      layers: Array(repeating: true, count: shape.layers))
    return DecoderNames(sinks: "self_attn.sinks", experts: experts, queryKeyValueBias: bias, outputBias: bias)
  }
}
