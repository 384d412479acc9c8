import NibbleCompute
import NibbleCore

/// StarCoder2: layer norms, a plain MLP, biases, grouped keys and a window.
enum Starcoder2: Decoder {
  static let modelTypes = ["starcoder2"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 49152, width: 3072, inner: 12288, layers: 30, heads: 24, context: 4096, keyValueHeads: 2, epsilon: 1e-5,
      epsilonKey: "norm_epsilon", activation: "gelu_pytorch_tanh", isTied: true)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    (shape.isRMSNorm, shape.isGated) = (false, false)
    let window = try config.window(default: nil)
    shape.windows = shape.windows.map { _ in window }
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("use_bias", default: true)
    return DecoderNames(
      normsHaveBias: true, up: ["mlp.c_fc"], down: "mlp.c_proj", queryKeyValueBias: bias, outputBias: bias, mlpBias: bias)
  }
}
