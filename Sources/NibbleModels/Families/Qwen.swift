import NibbleCompute
import NibbleCore

/// Qwen2, a Llama with biases of queries, keys and values, and Qwen3, which norms each head of queries and keys.
enum Qwen: Decoder {
  static let modelTypes = ["qwen2", "qwen3"]

  private static func isThird(_ config: ConfigReader) -> Bool { config["model_type"]?.string == "qwen3" }

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 151_936, inner: 22016, context: 32768, keyValueHeads: 32, headSize: isThird(config) ? 128 : nil)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    // Windows of the upper layers, where they are switched on.
    guard try config.bool("use_sliding_window", default: false), let window = try config.window(default: 4096) else { return shape }
    let first = try config.int("max_window_layers", 0...Limits.layers.upperBound, default: 28)
    let usual = (0..<shape.layers).map { $0 >= first }
    shape.windows = try config.windows(config.slidingLayers(shape.layers) ?? usual, window)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    guard isThird(config) else { return DecoderNames(queryKeyValueBias: true) }
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(
      headNorms: ("self_attn.q_norm", "self_attn.k_norm", byHead: true), queryKeyValueBias: bias, outputBias: bias)
  }
}
