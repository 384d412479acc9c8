import NibbleCompute
import NibbleCore

/// Granite 4 whose layers are all of attention: a Granite with one projection for gate and up, with or without positions. Layers of Mamba
/// and experts are refused.
enum Granite4: Decoder {
  static let modelTypes = ["granitemoehybrid"]
  static let knownKeys = Granite.knownKeys.union(["num_local_experts"])
  /// None are read of models without.
  static let hasKindsOfPositions = true

  static func usual(_ config: ConfigReader) -> DecoderDefaults { DecoderDefaults() }

  static func inner(_ shape: TransformerShape, _ config: ConfigReader) throws -> Int {
    try config.int("shared_intermediate_size", Limits.width, default: 1024)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    try config.refuse(["layers_block_type"])
    let experts = try config.int("num_local_experts", 0...1 << 16, default: 8)
    guard experts == 0 else {
      let count: MessageText = config["num_local_experts"] == nil ? "missing, and its default, 8, asks for experts" : "\(experts): experts"
      throw config.fail("\(key: "num_local_experts") is " + count + " beside the shared MLP are not implemented")
    }
    var shape = try Granite.scaled(decoderShape(config), config)
    try checkLayers(shape.layers, config)
    switch try config.string("position_embedding_type") {
    case "rope":
      let positions = try RotaryPositions(config, size: shape.headSize, context: shape.contextLength, usual: .init())
      shape.rotary = Array(repeating: positions, count: shape.layers)
    case nil, "nope": break
    case let other?: throw config.fail("\(key: "position_embedding_type") = \(quoted(other)) is not implemented")
    }
    return shape
  }

  /// Refuses layers that are none of attention: where nothing says what they are, all are of Mamba.
  private static func checkLayers(_ layers: Int, _ config: ConfigReader) throws {
    guard let list = config["layer_types"] else {
      throw config.fail("\(key: "layer_types") is missing: layers of Mamba are not implemented")
    }
    guard let types = list.array else { throw config.wrong("layer_types", list, "a list of kinds of layers") }
    guard types.count == layers else {
      throw config.fail("\(key: "layer_types") has \(types.count) entries for \(layers) layers")
    }
    for type in types where type.string != "attention" && type.string != LayerKind.full {
      let name: MessageText = ["mamba", "linear_attention"].contains(type.string) ? ", layers of Mamba," : ""
      throw config.fail("\(key: "layer_types"): \(quoted(type.string ?? type.text()))" + name + " is not implemented")
    }
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(
      up: ["shared_mlp.input_linear"], down: "shared_mlp.output_linear", queryKeyValueBias: bias, outputBias: bias)
  }
}
