import NibbleCompute
import NibbleCore

/// Llama 4, its text model: chunks of attention in layers that turn their heads, a scale by position in the others, and in some layers
/// experts with one that every token takes.
enum Llama4: Decoder {
  static let modelTypes = ["llama4_text"]
  static let knownKeys: Set = ["num_local_experts", "use_qk_norm", "no_rope_layers"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 202_048, width: 5120, inner: 8192, layers: 48, heads: 40, context: 131_072, keyValueHeads: 8,
      headSize: 128, epsilon: 1e-5, rotary: .init(base: 500_000, isPaired: true))
  }

  /// Of layers without experts.
  static func inner(_ shape: TransformerShape, _ config: ConfigReader) throws -> Int {
    try config.int("intermediate_size_mlp", Limits.width, default: 16384)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    let turns = try config.turningLayers(shape.layers, isEmptySilent: true)
    shape.chunks = try chunks(config, turns)
    // Published files have a number for true.
    let isTuned = config["attn_temperature_tuning"]?.int.map { $0 != 0 }
    if try isTuned ?? config.bool("attn_temperature_tuning", default: true) {
      let scale = QueryScale(
        slope: Float(try config.double("attn_scale", above: -.infinity, default: 0.1)),
        span: try config.int("floor_scale", Limits.context, default: 8192), first: 1)
      shape.queryScales = turns.map { $0 ? nil : scale }
    }
    guard try config.bool("use_qk_norm", default: true) else {
      shape.rotary = zip(shape.rotary, turns).map { $1 ? $0 : nil }
      return shape
    }
    // Heads are normed once they are turned, which undoes what turning multiplies them with: the same as norms before, with a lesser epsilon.
    let factor = shape.rotary.first.flatMap { $0?.attentionFactor } ?? 1
    shape.plainHeadNorms = turns.map { $0 ? shape.epsilon / (factor * factor) : nil }
    shape.rotary = zip(shape.rotary, turns).map { $1 ? $0?.withoutFactor : nil }
    return shape
  }

  /// Tokens of the chunks that layers see, nil for layers that see everything.
  private static func chunks(_ config: ConfigReader, _ turns: [Bool]) throws -> [Int?] {
    var isChunked = turns
    if let list = config["layer_types"] {
      guard let types = list.array, types.count == turns.count else {
        throw config.wrong("layer_types", list, "a list of \(turns.count) kinds of layers")
      }
      isChunked = try types.map { type in
        guard type.string == "chunked_attention" || type.string == LayerKind.full else {
          throw config.fail("\(key: "layer_types"): \(quoted(type.string ?? type.text())) is not implemented")
        }
        return type.string != LayerKind.full
      }
    }
    let isOff = config.says("attention_chunk_size") && config["attention_chunk_size"] == nil
    guard !isOff || !isChunked.contains(true) else {
      throw config.fail("\(key: "attention_chunk_size") is null, and layers see chunks")
    }
    let size = try config.int("attention_chunk_size", Limits.context, default: 8192)
    return isChunked.map { $0 ? size : nil }
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    var names = DecoderNames(
      up: ["feed_forward.gate_proj", "feed_forward.up_proj"], down: "feed_forward.down_proj", queryKeyValueBias: bias, outputBias: bias)
    let layers = try expertLayers(config, shape.layers)
    guard layers.contains(true) else { return names }
    let count = try config.expertCount(["num_local_experts"], default: 16), inner = try config.int("intermediate_size", Limits.width, default: 8192)
    var rule = RoutingRule(used: try config.usedExperts(of: count, default: 1), addsUp: false)
    rule.scores = .ofInput
    names.experts = DecoderExperts(
      router: "feed_forward.router", expert: "feed_forward.experts.", up: ["gate_up_proj"], isTurned: true,
      shared: .init(name: "feed_forward.shared_expert", up: ["gate_proj", "up_proj"], inner: inner), count: count, rule: rule, inner: inner,
      layers: layers)
    return names
  }

  /// Of each layer, whether it has experts: those that are listed (`moe_layers`), or every so many (`interleave_moe_layer_step`).
  private static func expertLayers(_ config: ConfigReader, _ layers: Int) throws -> [Bool] {
    if let list = config["moe_layers"] {
      guard let numbers = list.array?.map(\.int), !numbers.contains(nil) else { throw config.wrong("moe_layers", list, "numbers of layers") }
      let own = Set(numbers.compactMap { $0 })
      return (0..<layers).map { own.contains($0) }
    }
    let step = try config.int("interleave_moe_layer_step", 1...Limits.layers.upperBound, default: 1)
    return (0..<layers).map { ($0 + 1) % step == 0 }
  }
}
