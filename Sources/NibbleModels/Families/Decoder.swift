import NibbleCompute
import NibbleCore

/// A family of decoders with rotary positions, whose sizes and weights have the usual names or names of their own. A family's file says
/// what it takes where a configuration is silent, what it computes otherwise than Llama, and what its weights are called.
protocol Decoder: TransformerArchitecture {
  static func usual(_ config: ConfigReader) -> DecoderDefaults
  /// Names of weights, and which of them there are.
  static func names(_ shape: TransformerShape, _ config: ConfigReader) throws -> DecoderNames
  /// Whether layers have positions by their kind, which the family fills in itself.
  static var hasKindsOfPositions: Bool { get }
  /// Keys of arithmetic that other families are refused for.
  static var knownKeys: Set<String> { get }
  /// Numbers between the projections of the MLP.
  static func inner(_ shape: TransformerShape, _ config: ConfigReader) throws -> Int
}

/// What transformers takes where a configuration of the family is silent.
struct DecoderDefaults {
  var vocabulary = 32000, width = 4096, inner = 11008, layers = 32, heads = 32, context = 2048
  /// nil for as many as there are heads.
  var keyValueHeads: Int?
  /// nil for the part of the width that each head has.
  var headSize: Int?
  var epsilon = 1e-6, epsilonKey = "rms_norm_eps"
  var activation = "silu", activationKey = "hidden_act"
  var isTied = false
  var padding: Int?
  var rotary = RotaryPositions.Usual()
}

/// What the weights of a decoder are called.
struct DecoderNames {
  var tokens = "model.embed_tokens", layers = "model.layers.", finalNorm = "model.norm", head = "lm_head", classes = "score"
  /// Norms of a layer, before attention and MLP and after what they gave.
  var attentionNorms = (before: Optional("input_layernorm"), after: String?.none)
  var mlpNorms = (before: Optional("post_attention_layernorm"), after: String?.none)
  var normsHaveBias = false
  /// Norms of queries and keys, and whether each head is normed by itself.
  var headNorms: (query: String, key: String, byHead: Bool)?
  /// Three projections, or one of all.
  var queryKeyValue = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]
  var attentionOutput = "self_attn.o_proj"
  /// Scores of attention that no key has.
  var sinks: String?
  /// Gate and up, one projection of both, or that of a plain MLP.
  var up = ["mlp.gate_proj", "mlp.up_proj"]
  var down = "mlp.down_proj"
  var experts: DecoderExperts?
  /// Latent attention, in the place of the three.
  var latent: DecoderLatent?
  /// Tensors that files have and the model has no use for, as a pattern.
  var ignored: String?
  var queryKeyValueBias = false, outputBias = false, mlpBias = false, headBias = false
}

extension Decoder {
  static var hasKindsOfPositions: Bool { false }
  static var knownKeys: Set<String> { [] }

  static func shape(_ config: ConfigReader) throws -> TransformerShape { try decoderShape(config) }

  static func inner(_ shape: TransformerShape, _ config: ConfigReader) throws -> Int {
    try config.int("intermediate_size", Limits.width, default: usual(config).inner)
  }

  /// Sizes under their usual names; a Llama, if the family changes nothing.
  static func decoderShape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    let arithmetic = [
      "use_qk_norm", "qk_norm", "qk_layernorm", "clip_qkv", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
      "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "query_pre_attn_scalar",
      "num_local_experts", "num_experts", "use_mrope", "layer_replication", "parallel_attn", "no_rope_layers",
      "use_bidirectional_attention", "alibi",
    ]
    try config.refuse(arithmetic.filter { !knownKeys.contains($0) })
    try config.refuse(["pretraining_tp"], unless: [1])
    let usual = usual(config)
    let width = try config.int("hidden_size", Limits.width, default: usual.width)
    let heads = try config.int("num_attention_heads", Limits.heads, default: usual.heads)
    let silent = config.says("num_key_value_heads") ? nil : usual.keyValueHeads
    let keyValueHeads = try config.int("num_key_value_heads", Limits.heads, default: silent ?? heads)
    guard heads % keyValueHeads == 0 else {
      throw config.fail("\(key: "num_attention_heads") \(heads) is no multiple of num_key_value_heads \(keyValueHeads)")
    }
    if config["head_dim"] == nil, usual.headSize == nil, width % heads != 0 {
      throw config.fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)")
    }
    let headSize = try config.int("head_dim", 1...1 << 16, default: usual.headSize ?? width / heads)
    let context = try config.int("max_position_embeddings", Limits.context, default: usual.context)
    let layers = try config.int("num_hidden_layers", Limits.layers, default: usual.layers)
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: usual.vocabulary), width: width, heads: heads,
      keyValueHeads: keyValueHeads, headSize: headSize, layers: layers, contextLength: context, isCausal: true, isRMSNorm: true,
      epsilon: Float(try config.double(usual.epsilonKey, above: 0, default: usual.epsilon)),
      activation: try config.activation(usual.activationKey, default: usual.activation), isGated: true,
      rotary: try rotary(config, usual, headSize: headSize, layers: layers, context: context),
      windows: Array(repeating: nil, count: layers),
      padding: config.says("pad_token_id") ? config["pad_token_id"]?.int : usual.padding)
  }

  /// The same positions for all layers.
  private static func rotary(
    _ config: ConfigReader, _ usual: DecoderDefaults, headSize: Int, layers: Int, context: Int
  ) throws -> [RotaryPositions?] {
    if hasKindsOfPositions { return [] }
    return Array(repeating: try RotaryPositions(config, size: headSize, context: context, usual: usual.rotary), count: layers)
  }

  static func weights(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let names = try names(shape, config), width = shape.width
    let inner = try inner(shape, config)
    let tokens = try source.embedding(
      names.tokens, count: shape.vocabulary, width: width, sharedWith: isTied(config) ? names.head : nil)
    let layers = try (0..<shape.layers).map { index in
      let layer = DecoderLayer(names.layers + "\(index).", shape, source)
      func norm(_ name: String?, _ count: Int) throws -> Norm? {
        try name.map { try layer.norm($0, count, hasBias: names.normsHaveBias) }
      }
      let before = try norm(names.attentionNorms.before, width)
      let latent = try names.latent?.projections(layer)
      let widths = names.queryKeyValue.count == 1 ? [shape.attentionWidth] : [shape.queryWidth, shape.keyWidth, shape.valueWidth]
      let queryKeyValue = latent != nil ? [] : try zip(names.queryKeyValue, widths).map {
        try layer.linear($0, $1, width, hasBias: names.queryKeyValueBias)
      }
      let heads = names.headNorms
      let query = try norm(heads?.query, heads?.byHead == true ? shape.headSize : shape.queryWidth)
      let key = try norm(heads?.key, heads?.byHead == true ? shape.headSize : shape.keyWidth)
      let output = try layer.linear(names.attentionOutput, width, shape.attendedWidth, hasBias: names.outputBias)
      let attentionNorms = BranchNorms(before: before, after: try norm(names.attentionNorms.after, width))
      let beforeMLP = try norm(names.mlpNorms.before, width)
      let experts = try names.experts.flatMap { $0.layers[index] ? $0 : nil }?.experts(layer)
      let dense = try experts?.all.first ?? layer.mlp(names.up, names.down, inner, hasBias: names.mlpBias)
      return LayerWeights(
        attentionNorms: attentionNorms, queryKeyValue: queryKeyValue, latent: latent, queryNorm: query, keyNorm: key, attentionOutput: output,
        sinks: try names.sinks.map { try layer.vector($0, shape.heads) },
        mlpNorms: BranchNorms(before: beforeMLP, after: try norm(names.mlpNorms.after, width)), up: dense.up, down: dense.down,
        experts: experts)
    }
    let norm = try source.norm(names.finalNorm, width: width, hasBias: names.normsHaveBias)
    let head = try head(shape, names, config, source, tokens)
    // Some old files hold the frequencies, and causal masks, too; a language head may lie beside a classifier's.
    let language: String? = if case .classification = head { #"^(lm_head|embed_out)\."# } else { nil }
    let ignored = names.ignored.map { "|" + $0 } ?? ""
    try source.checkNothingLeft(
      ignoring: Pattern(#"rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$"# + ignored), head: language)
    return TransformerWeights(tokens: tokens, layers: layers, finalNorm: norm, head: head)
  }

  private static func isTied(_ config: ConfigReader) throws -> Bool {
    try config.architectureClass().hasSuffix("ForCausalLM")
      && config.bool("tie_word_embeddings", default: usual(config).isTied)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    let shape = try shape(config)
    source.begin(try names(shape, config).classes, outputs: labels, inputs: shape.width, hasBias: false)
    return true
  }

  private static func head(
    _ shape: TransformerShape, _ names: DecoderNames, _ config: ConfigReader, _ source: WeightSource, _ tokens: Embedding
  ) throws -> Head {
    let name = try config.architectureClass()
    switch name {
    case _ where name.hasSuffix("ForCausalLM"):
      if try isTied(config) { return .language(try source.tied(names.head, to: tokens, hasBias: names.headBias)) }
      return .language(
        try source.linear(
          names.head, outputs: shape.vocabulary, inputs: shape.width, bias: names.headBias ? .required : .none))
    case _ where name.hasSuffix("ForSequenceClassification"):
      let labels = try config.labelCount()
      return .classification(
        ClassificationHead(
          token: .last, dense: [],
          output: try source.linear(names.classes, outputs: labels, inputs: shape.width, bias: .none),
          problem: try config.problem(labels: labels)))
    case _ where name.hasSuffix("Model"): return .none
    default: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}

/// What `layer_types` calls layers.
enum LayerKind {
  static let full = "full_attention", sliding = "sliding_attention"
}

extension ConfigReader {
  /// Of each layer, whether it sees a window only, by `layer_types`; nil where the configuration has none.
  func slidingLayers(_ layers: Int) throws -> [Bool]? {
    guard let types = self["layer_types"]?.array else { return nil }
    guard types.count == layers else {
      throw fail("\(key: "layer_types") has \(types.count) entries for \(layers) layers")
    }
    return try types.map { type in
      switch type.string {
      case LayerKind.full: false
      case LayerKind.sliding: true
      default: throw fail("\(key: "layer_types"): \(quoted(type.text())) is not implemented")
      }
    }
  }

  /// The windows of layers.
  ///
  /// - Throws: where layers see a window, and there is none
  func windows(_ isSliding: [Bool], _ window: Int?) throws -> [Int?] {
    guard !isSliding.contains(true) || window != nil else {
      throw fail("\(key: "sliding_window") is null, and layers see a window")
    }
    return isSliding.map { $0 ? window : nil }
  }

  /// `sliding_window`: null is none, without the key there is the usual one.
  func window(default usual: Int?) throws -> Int? {
    guard self["sliding_window"] != nil else { return says("sliding_window") ? nil : usual }
    return try int("sliding_window", Limits.context)
  }
}
