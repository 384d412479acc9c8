import NibbleCompute
import NibbleCore

/// Llama 1, 2, 3 and what is computed alike: Mistral and Ministral with their windows.
enum Llama: Decoder {
  static let modelTypes = ["llama", "mistral", "ministral"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    if isLlama(config) { return DecoderDefaults() }
    return DecoderDefaults(inner: 14336, context: 131_072, keyValueHeads: 8)
  }

  private static func isLlama(_ config: ConfigReader) -> Bool { config["model_type"]?.string == "llama" }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    if isLlama(config) { return shape }
    let window = try config.window(default: 4096)
    // Of Mistral's layers all see a window, whatever their types.
    let types = config["model_type"]?.string == "ministral" ? try config.slidingLayers(shape.layers) : nil
    shape.windows = try config.windows(types ?? Array(repeating: window != nil, count: shape.layers), window)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    // Only Llama's configuration says which biases there are.
    guard isLlama(config) else { return DecoderNames() }
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(queryKeyValueBias: bias, outputBias: bias, mlpBias: try config.bool("mlp_bias", default: false))
  }
}
