import NibbleCompute
import NibbleCore

/// Falcon: layer norms, one projection for queries, keys and values, attention and MLP beside each other, behind one norm or two.
enum Falcon: Decoder {
  static let modelTypes = ["falcon"]
  static let knownKeys: Set = ["parallel_attn"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 65024, width: 4544, heads: 71, epsilon: 1e-5, epsilonKey: "layer_norm_epsilon", activation: "gelu",
      activationKey: "activation", isTied: true)
  }

  /// The three forms there are.
  private enum Form {
    /// One key and value for all queries, or one for each; attention and MLP beside each other or not.
    case first(hasOneKey: Bool, isParallel: Bool)
    /// Groups of queries with a key and a value, one norm or two.
    case later(norms: Int)
  }

  private static func form(_ config: ConfigReader) throws -> Form {
    let isParallel = try config.bool("parallel_attn", default: true)
    let norms = try config.int("num_ln_in_parallel_attn", 0...2, default: 0)
    if try config.bool("new_decoder_architecture", default: false) {
      guard isParallel else { throw config.fail("\(key: "parallel_attn") = 'false' with new_decoder_architecture is not implemented") }
      return .later(norms: norms == 0 ? 2 : norms)
    }
    guard norms < 2 else {
      throw config.fail("\(key: "num_ln_in_parallel_attn") = 2 without new_decoder_architecture is not implemented")
    }
    return .first(hasOneKey: try config.bool("multi_query", default: true), isParallel: isParallel)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    let width = config["n_embed"].map { config.json.setting("hidden_size", to: $0) }
    var shape = try decoderShape(ConfigReader(width ?? config.json, place: config.place))
    guard shape.queryWidth == shape.width else { throw config.fail("heads that do not share the width are not implemented") }
    (shape.isRMSNorm, shape.isGated) = (false, false)
    switch try form(config) {
    case .first(let hasOneKey, let isParallel):
      shape.keyValueHeads = hasOneKey ? 1 : shape.heads
      (shape.isGrouped, shape.isParallel) = (!hasOneKey, isParallel)
    case .later:
      shape.keyValueHeads = try config.int("num_kv_heads", Limits.heads, default: shape.heads)
      guard shape.heads % shape.keyValueHeads == 0 else {
        throw config.fail("\(key: "num_attention_heads") \(shape.heads) is no multiple of num_kv_heads \(shape.keyValueHeads)")
      }
      (shape.isGrouped, shape.isParallel) = (true, true)
    }
    return shape
  }

  static func inner(_ shape: TransformerShape, _ config: ConfigReader) throws -> Int {
    try config.int("ffn_hidden_size", Limits.width, default: 4 * shape.width)
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("bias", default: false)
    var names = DecoderNames(
      tokens: "transformer.word_embeddings", layers: "transformer.h.", finalNorm: "transformer.ln_f", mlpNorms: (nil, nil),
      normsHaveBias: true, queryKeyValue: ["self_attention.query_key_value"], attentionOutput: "self_attention.dense",
      up: ["mlp.dense_h_to_4h"], down: "mlp.dense_4h_to_h", queryKeyValueBias: bias, outputBias: bias, mlpBias: bias)
    switch try form(config) {
    case .first(_, isParallel: false): names.mlpNorms.before = "post_attention_layernorm"
    case .later(norms: 2): (names.attentionNorms.before, names.mlpNorms.before) = ("ln_attn", "ln_mlp")
    default: break
    }
    return names
  }
}
