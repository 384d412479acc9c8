import NibbleCompute
import NibbleCore

/// Mixtral: a Mistral whose layers have experts in the place of the MLP.
enum Mixtral: Decoder {
  static let modelTypes = ["mixtral"]
  static let knownKeys: Set = ["num_local_experts", "num_experts"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      inner: 14336, context: 131_072, keyValueHeads: 8, epsilon: 1e-5, rotary: RotaryPositions.Usual(base: 1_000_000))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    // Noise of the router in training (`router_jitter_noise`) is left out, as other dropout is.
    try config.refuseRouterLoss()
    var shape = try decoderShape(config)
    let window = try config.window(default: nil)
    shape.windows = Array(repeating: window, count: shape.layers)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let count = try config.expertCount(default: 8)
    let experts = DecoderExperts(
      router: "block_sparse_moe.gate", expert: "block_sparse_moe.experts.", up: ["w1", "w3"], down: "w2", count: count,
      rule: RoutingRule(used: try config.usedExperts(of: count, default: 2), addsUp: true), inner: try inner(shape, config),
      layers: Array(repeating: true, count: shape.layers))
    return DecoderNames(experts: experts)
  }
}
