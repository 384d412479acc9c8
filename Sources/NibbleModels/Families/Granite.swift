import NibbleCompute
import NibbleCore

/// Granite: a Llama whose embeddings, branches, scores of attention and logits are scaled.
enum Granite: Decoder {
  static let modelTypes = ["granite"]
  static let knownKeys: Set = ["embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults { DecoderDefaults() }

  static func shape(_ config: ConfigReader) throws -> TransformerShape { try scaled(decoderShape(config), config) }

  /// The same with Granite's scales.
  static func scaled(_ shape: TransformerShape, _ config: ConfigReader) throws -> TransformerShape {
    var shape = shape
    func scale(_ key: String) throws -> Float { Float(try config.double(key, above: 0, default: 1)) }
    shape.embeddingScale = try scale("embedding_multiplier")
    // The model scales what its table gives, noise included.
    shape.scalesNoise = true
    shape.residualScale = try scale("residual_multiplier")
    shape.attentionScales = Array(repeating: try scale("attention_multiplier"), count: shape.layers)
    shape.logits.divisor = try scale("logits_scaling")
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(queryKeyValueBias: bias, outputBias: bias, mlpBias: try config.bool("mlp_bias", default: false))
  }
}
