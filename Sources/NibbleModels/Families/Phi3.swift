import NibbleCompute
import NibbleCore

/// Phi-3 and Phi-4: a Llama with one projection for queries, keys and values and one for gate and up, heads that may be turned in part,
/// LongRoPE.
enum Phi3: Decoder {
  static let modelTypes = ["phi3"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 32064, width: 3072, inner: 8192, context: 4096, epsilon: 1e-5, padding: 32000,
      rotary: .init(
        hasParts: true, kinds: ["default": "default", "longrope": "longrope", "su": "longrope", "yarn": "longrope"], trained: 4096))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    let window = try config.window(default: nil)
    shape.windows = shape.windows.map { _ in window }
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    DecoderNames(queryKeyValue: ["self_attn.qkv_proj"], up: ["mlp.gate_up_proj"])
  }
}
