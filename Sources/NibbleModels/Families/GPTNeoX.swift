import NibbleCompute
import NibbleCore

/// GPT-NeoX and Pythia: layer norms, attention and MLP beside each other, one projection in which each head's query, key and value follow
/// one another, and a part of each head that is turned.
enum GPTNeoX: Decoder {
  static let modelTypes = ["gpt_neox"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 50432, width: 6144, inner: 24576, layers: 44, heads: 64, epsilon: 1e-5, epsilonKey: "layer_norm_eps",
      activation: "gelu", rotary: .init(baseKey: "rotary_emb_base", part: 0.25, partKey: "rotary_pct", hasParts: true))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    guard shape.queryWidth == shape.width, shape.keyValueHeads == shape.heads else {
      throw config.fail("heads that do not share the width of GPT-NeoX are not implemented")
    }
    (shape.isRMSNorm, shape.isGated, shape.isGrouped) = (false, false, true)
    shape.isParallel = try config.bool("use_parallel_residual", default: true)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: true)
    return DecoderNames(
      tokens: "gpt_neox.embed_in", layers: "gpt_neox.layers.", finalNorm: "gpt_neox.final_layer_norm", normsHaveBias: true,
      queryKeyValue: ["attention.query_key_value"], attentionOutput: "attention.dense", up: ["mlp.dense_h_to_4h"],
      down: "mlp.dense_4h_to_h", queryKeyValueBias: bias, outputBias: bias, mlpBias: true)
  }
}
