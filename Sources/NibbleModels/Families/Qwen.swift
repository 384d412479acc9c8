import NibbleCompute
import NibbleCore

/// Qwen2, a Llama with biases of queries, keys and values, and Qwen3, which norms each head of queries and keys; and the text models of those that
/// take pictures, whose positions have three parts: in texts all three are the token's number, and what is turned by them is turned as usual.
enum Qwen: Decoder {
  static let modelTypes = ["qwen2", "qwen3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"]

  private static func isThird(_ config: ConfigReader) -> Bool { config["model_type"]?.string?.hasPrefix("qwen3") == true }

  private static func isOfPictures(_ config: ConfigReader) -> Bool { config["model_type"]?.string?.hasSuffix("_vl_text") == true }

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    let size = isThird(config) ? 128 : nil
    guard isOfPictures(config) else {
      return DecoderDefaults(vocabulary: 151_936, inner: 22016, context: 32768, keyValueHeads: 32, headSize: size)
    }
    if isThird(config) {
      return DecoderDefaults(
        vocabulary: 151_936, inner: 22016, context: 128_000, keyValueHeads: 32, headSize: size,
        rotary: .init(base: 500_000, kinds: RotaryPositions.kindsInThreeParts))
    }
    return DecoderDefaults(
      vocabulary: 152_064, width: 8192, inner: 29568, layers: 80, heads: 64, context: 32768, keyValueHeads: 8, epsilon: 1e-5,
      rotary: .init(base: 1_000_000, kinds: RotaryPositions.kindsInThreeParts))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    // Windows of the upper layers, where they are switched on.
    guard try config.bool("use_sliding_window", default: false), let window = try config.window(default: 4096) else { return shape }
    let first = try config.int("max_window_layers", 0...Limits.layers.upperBound, default: isOfPictures(config) ? 80 : 28)
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
