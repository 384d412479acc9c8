import NibbleCompute
import NibbleCore

/// GLM-4: neighbouring pairs of half of each head are turned, gate and up are one projection. The later one (glm4) has norms after attention
/// and MLP, too.
enum Glm: Decoder {
  static let modelTypes = ["glm", "glm4"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 151_552, inner: 13696, layers: 40, context: 131_072, keyValueHeads: 2, headSize: 128, epsilon: 1.5625e-7,
      padding: 151_329, rotary: .init(part: 0.5, hasParts: true, isPaired: true))
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    var names = DecoderNames(up: ["mlp.gate_up_proj"], queryKeyValueBias: try config.bool("attention_bias", default: true))
    if config["model_type"]?.string == "glm4" {
      names.attentionNorms.after = "post_self_attn_layernorm"
      names.mlpNorms.after = "post_mlp_layernorm"
    }
    return names
  }
}
