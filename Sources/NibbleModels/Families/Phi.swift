import NibbleCompute
import NibbleCore

/// Phi-1 and Phi-2: layer norms, attention and MLP beside each other behind one norm, half of each head turned, biases everywhere.
enum Phi: Decoder {
  static let modelTypes = ["phi"]
  static let knownKeys: Set = ["qk_layernorm"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 51200, width: 2048, inner: 8192, layers: 24, epsilon: 1e-5, epsilonKey: "layer_norm_eps", activation: "gelu_new",
      rotary: .init(part: 0.5, hasParts: true))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    (shape.isRMSNorm, shape.isGated, shape.isParallel) = (false, false, true)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    var names = DecoderNames(
      finalNorm: "model.final_layernorm", mlpNorms: (nil, nil), normsHaveBias: true, attentionOutput: "self_attn.dense", up: ["mlp.fc1"],
      down: "mlp.fc2", queryKeyValueBias: true, outputBias: true, mlpBias: true, headBias: true)
    if try config.bool("qk_layernorm", default: false) {
      names.headNorms = ("self_attn.q_layernorm", "self_attn.k_layernorm", byHead: true)
    }
    return names
  }
}
