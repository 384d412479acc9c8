import NibbleCompute
import NibbleCore

/// OLMo 2 and 3: a Llama with norms after attention and MLP in place of before them, and norms of all queries and all keys of a token.
/// OLMo 3 has windows, and positions by kind of layer.
enum Olmo2: Decoder {
  static let modelTypes = ["olmo2"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(vocabulary: 50304, epsilon: 1e-5, padding: 1)
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(
      attentionNorms: (nil, "post_attention_layernorm"), mlpNorms: (nil, "post_feedforward_layernorm"),
      headNorms: ("self_attn.q_norm", "self_attn.k_norm", byHead: false), queryKeyValueBias: bias, outputBias: bias)
  }
}

enum Olmo3: Decoder {
  static let modelTypes = ["olmo3"]
  static let hasKindsOfPositions = true

  static func usual(_ config: ConfigReader) -> DecoderDefaults { Olmo2.usual(config) }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    let isSliding = try config.slidingLayers(shape.layers) ?? (0..<shape.layers).map { ($0 + 1) % 4 != 0 }
    shape.windows = try config.windows(isSliding, config.window(default: 4096))
    // transformers gives rope_theta outside rope_parameters to layers that see everything, and to no others.
    let full = RotaryPositions.Usual(base: 500_000), sliding = RotaryPositions.Usual(base: 500_000, baseKey: "")
    shape.rotary = try config.rotaries(shape, isSliding, full: full, sliding: sliding)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames { try Olmo2.names(shape, config) }
}

extension ConfigReader {
  /// Positions of each layer by its kind.
  func rotaries(
    _ shape: TransformerShape, _ isSliding: [Bool], full: RotaryPositions.Usual, sliding: RotaryPositions.Usual
  ) throws -> [RotaryPositions?] {
    func positions(_ usual: RotaryPositions.Usual, _ kind: String) throws -> RotaryPositions {
      try RotaryPositions(self, size: shape.headSize, context: shape.contextLength, usual: usual, of: kind)
    }
    let own = (full: try positions(full, LayerKind.full), sliding: try positions(sliding, LayerKind.sliding))
    return isSliding.map { $0 ? own.sliding : own.full }
  }
}
