import NibbleCompute
import NibbleCore

/// SmolLM3: a Llama some of whose layers do not turn their heads, and may see a window instead.
enum SmolLM3: Decoder {
  static let modelTypes = ["smollm3"]
  static let knownKeys: Set = ["no_rope_layers"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 128_256, width: 2048, layers: 36, heads: 16, context: 32768, keyValueHeads: 4, isTied: true, padding: 128_004,
      rotary: .init(base: 2_000_000))
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    let turns = try config.turningLayers(shape.layers)
    let window = try config.window(default: nil)
    let slides = try config.bool("use_sliding_window", default: false) && window != nil
    shape.windows = try config.windows(config.slidingLayers(shape.layers) ?? turns.map { slides && !$0 }, window)
    shape.rotary = zip(shape.rotary, turns).map { $1 ? $0 : nil }
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(queryKeyValueBias: bias, outputBias: bias, mlpBias: try config.bool("mlp_bias", default: false))
  }
}

extension ConfigReader {
  /// Whether each layer turns its heads: in `no_rope_layers`, the numbers other than 0; without it, all but every so many.
  ///
  /// - Parameter isEmptySilent: whether an empty list says nothing
  func turningLayers(_ layers: Int, isEmptySilent: Bool = false) throws -> [Bool] {
    let list = self["no_rope_layers"]
    guard let list, !(isEmptySilent && list.array?.isEmpty == true) else {
      let interval = try int("no_rope_layer_interval", 1...Limits.layers.upperBound, default: 4)
      return (0..<layers).map { ($0 + 1) % interval != 0 }
    }
    let entries = list.array ?? [], numbers = entries.compactMap(\.int)
    guard numbers.count == entries.count, numbers.count >= layers else {
      throw fail("\(key: "no_rope_layers") has not a whole number for each of \(layers) layers")
    }
    return numbers.prefix(layers).map { $0 != 0 }
  }
}
