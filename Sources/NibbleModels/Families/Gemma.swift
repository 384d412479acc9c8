import Glibc
import NibbleCompute
import NibbleCore

/// Gemma 1: a Llama whose norms multiply with one more than their weight, and whose embeddings are scaled by √width.
///
/// transformers rounds that scale to the type it computes in; nibble computes in float32, and rounds it to that.
enum Gemma: Decoder {
  static let modelTypes = ["gemma"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 256_000, width: 3072, inner: 24576, layers: 28, heads: 16, context: 8192, keyValueHeads: 16, headSize: 256,
      activation: "gelu_pytorch_tanh", isTied: true, padding: 0)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try gemma(config)
    // The first files say gelu and mean this one.
    if config["hidden_act"]?.string == "gelu" { shape.activation = .geluTanh }
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(queryKeyValueBias: bias, outputBias: bias)
  }
}

extension Decoder {
  /// What all Gemmas share.
  fileprivate static func gemma(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try decoderShape(config)
    shape.normAddsOne = true
    shape.embeddingScale = Float(Double(shape.width).squareRoot())
    return shape
  }

  /// What the second and third share: norms before and after, and the scale of attention.
  fileprivate static func laterGemma(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try gemma(config)
    let scalar = try config.double("query_pre_attn_scalar", above: 0, default: 256)
    shape.attentionScales = Array(repeating: Float(1 / scalar.squareRoot()), count: shape.layers)
    return shape
  }

  fileprivate static func laterNames(_ config: ConfigReader) throws -> DecoderNames {
    let bias = try config.bool("attention_bias", default: false)
    return DecoderNames(
      attentionNorms: ("input_layernorm", "post_attention_layernorm"),
      mlpNorms: ("pre_feedforward_layernorm", "post_feedforward_layernorm"), queryKeyValueBias: bias, outputBias: bias)
  }

  /// A bound of scores: null is none, without the key there is the usual one.
  fileprivate static func cap(_ config: ConfigReader, _ key: String, default usual: Float?) throws -> Float? {
    guard config[key] != nil else { return config.says(key) ? nil : usual }
    return Float(try config.double(key, above: 0))
  }
}

/// Gemma 2: norms before and after each branch, bounded scores, windows in every other layer.
enum Gemma2: Decoder {
  static let modelTypes = ["gemma2"]
  static let knownKeys: Set = ["attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar"]

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    DecoderDefaults(
      vocabulary: 256_000, width: 2304, inner: 9216, layers: 26, heads: 8, context: 8192, keyValueHeads: 4, headSize: 256,
      activation: "gelu_pytorch_tanh", activationKey: "hidden_activation", isTied: true, padding: 0)
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try laterGemma(config)
    shape.attentionCap = try cap(config, "attn_logit_softcapping", default: 50)
    shape.logits.cap = try cap(config, "final_logit_softcapping", default: 30)
    let usual = (0..<shape.layers).map { $0 % 2 == 0 }
    shape.windows = try config.windows(config.slidingLayers(shape.layers) ?? usual, config.window(default: 4096))
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames { try laterNames(config) }
}

/// Gemma 3, its text model: a Gemma 2 with norms of each head of queries and keys, and positions by kind of layer. Scores of attention
/// are not bounded, whatever the configuration says: transformers does not do it either.
enum Gemma3: Decoder {
  static let modelTypes = ["gemma3_text"]
  static let hasKindsOfPositions = true
  static let knownKeys = Gemma2.knownKeys

  static func usual(_ config: ConfigReader) -> DecoderDefaults {
    var usual = Gemma2.usual(config)
    (usual.vocabulary, usual.context) = (262_208, 131_072)
    return usual
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try laterGemma(config)
    shape.logits.cap = try cap(config, "final_logit_softcapping", default: nil)
    let every = try config.int("sliding_window_pattern", 1...Limits.layers.upperBound, default: 6)
    let isSliding = try config.slidingLayers(shape.layers) ?? (0..<shape.layers).map { ($0 + 1) % every != 0 }
    shape.windows = try config.windows(isSliding, config.window(default: 4096))
    shape.rotary = try config.rotaries(
      shape, isSliding, full: .init(base: 1_000_000), sliding: .init(base: 10_000, baseKey: "rope_local_base_freq"))
    return shape
  }

  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames {
    var names = try laterNames(config)
    names.headNorms = ("self_attn.q_norm", "self_attn.k_norm", byHead: true)
    return names
  }
}
