import Glibc
import NibbleCompute
import NibbleCore

/// DeepSeek-V2 and V3: latent attention, and in all but the first layers experts with one that every token takes.
enum Deepseek: Decoder {
  static let modelTypes = ["deepseek_v2", "deepseek_v3"]
  static let knownKeys: Set = ["num_local_experts", "num_experts"]
  /// Heads are turned in part, by sizes of their own.
  static let hasKindsOfPositions = true

  private static func isThird(_ config: ConfigReader) -> Bool { config["model_type"]?.string == "deepseek_v3" }

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    isThird(config)
      ? DecoderDefaults(vocabulary: 129_280, width: 7168, inner: 18432, layers: 61, heads: 128, context: 4096)
      : DecoderDefaults(vocabulary: 102_400)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuseRouterLoss()
    // DeepSeek's own program knows it, transformers does not.
    try config.refuse(["moe_layer_freq"], unless: [1])
    let sizes = 1...1 << 16
    let turned = try config.int("qk_rope_head_dim", sizes, default: 64), unturned = try config.int("qk_nope_head_dim", sizes, default: 128)
    // Configurations call the turned part a head. V2's is that part, whatever they say.
    if isThird(config) { try config.refuse(["head_dim"], unless: [JSON(turned)]) }
    let json = config.json.setting("head_dim", to: JSON(turned + unturned))
    var shape = try decoderShape(ConfigReader(json, place: config.place))
    guard shape.keyValueHeads == shape.heads else {
      throw config.fail("\(key: "num_key_value_heads") is \(shape.keyValueHeads), latent attention has as many as num_attention_heads, \(shape.heads)")
    }
    shape.valueHeadSize = try config.int("v_head_dim", sizes, default: 128)
    shape.unturned = unturned
    let isPaired = try !isThird(config) || config.flag("rope_interleave", default: true)
    let positions = try RotaryPositions(config, size: turned, context: shape.contextLength, usual: .init(isPaired: isPaired))
    shape.rotary = Array(repeating: positions, count: shape.layers)
    let scale = try RotaryPositions.latentScale(config) / Double(shape.headSize).squareRoot()
    shape.attentionScales = Array(repeating: Float(scale), count: shape.layers)
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false), mlpBias = try !isThird(config) && config.bool("mlp_bias", default: false)
    var names = DecoderNames(outputBias: bias, mlpBias: mlpBias)
    names.latent = DecoderLatent(
      queryRank: config.says("q_lora_rank") && config["q_lora_rank"] == nil ? nil : try config.int("q_lora_rank", Limits.width, default: 1536),
      keyValueRank: try config.int("kv_lora_rank", Limits.width, default: 512), hasBias: bias)
    guard !isThird(config) else {
      names.experts = try config.correctedExperts(
        shape.layers, UsualExperts(count: 256, inner: 2048, firstLayer: 3, used: 8, groups: 8, usedGroups: 4, scale: 2.5))
      names.ignored = try config.predictingLayers(behind: shape.layers)
      return names
    }
    let count = try config.expertCount(["n_routed_experts", "num_experts"], default: 64)
    names.experts = try config.expertsWithShared(shape.layers, count, config.softmaxRouting(of: count), inner: 1407, firstLayer: 0, shared: 2)
    names.experts?.shared?.hasBias = mlpBias
    return names
  }
}

extension RotaryPositions {
  /// What 1 / √headSize is multiplied with: the square of YaRN's temperature for `mscale_all_dim`, whatever scales positions.
  fileprivate static func latentScale(_ config: ConfigReader) throws -> Double {
    guard let scaling = try parameters(config), let kind = try scaling.string("rope_type") ?? scaling.string("type"), kind != "default" else {
      return 1
    }
    let scale = try scaling.double("mscale_all_dim", above: -.infinity, default: 0)
    guard scale != 0 else { return 1 }
    let factor = try scaling.double("factor", above: 0)
    let temperature = factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1
    return temperature * temperature
  }
}
