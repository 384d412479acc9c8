import NibbleCompute
import NibbleCore

/// Ministral 3: a Llama with long positions, whose queries are multiplied with more the further back their text begins.
enum Ministral3: Decoder {
  static let modelTypes = ["ministral3"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 131_072, inner: 14336, layers: 34, context: 262_144, keyValueHeads: 8,
      headSize: 128, epsilon: 1e-5, padding: 11)
  }

  /// What scales positions where a configuration says nothing of it.
  private static let scaling: JSON = [
    "rope_type": "yarn", "rope_theta": 1_000_000, "factor": 16, "original_max_position_embeddings": 16384, "beta_fast": 32, "beta_slow": 1,
    "mscale_all_dim": 1, "mscale": 1, "llama_4_scaling_beta": JSON(0.1),
  ]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    let isSilent = config["rope_parameters"] == nil && config["rope_scaling"]?.members?.isEmpty ?? true
    let config = isSilent ? ConfigReader(config.json.setting("rope_parameters", to: scaling), place: config.place) : config
    var shape = try decoderShape(config)
    let window = try config.window(default: nil)
    shape.windows = Array(repeating: window, count: shape.layers)
    shape.queryScales = Array(repeating: try queryScale(config, shape.contextLength), count: shape.layers)
    return shape
  }

  private static func queryScale(_ config: ConfigReader, _ context: Int) throws -> QueryScale {
    guard let positions = try RotaryPositions.parameters(config) else { throw config.fail("\(key: "llama_4_scaling_beta") is missing") }
    let key = "original_max_position_embeddings", type = try positions.string("rope_type") ?? positions.string("type")
    let isExtended = ["llama3", "yarn", "longrope"].contains(type)
    return QueryScale(
      slope: Float(try positions.double("llama_4_scaling_beta", above: -.infinity)),
      span: try (isExtended && config[key] != nil ? config : positions).int(key, Limits.context, default: isExtended ? context : nil))
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames { DecoderNames() }
}
