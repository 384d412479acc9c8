import NibbleCompute
import NibbleCore

/// Llama 1, 2, 3 and what is computed alike: Mistral, and Qwen2 with its biases.
enum Llama: TransformerArchitecture {
  static let modelTypes = ["llama", "mistral", "qwen2"]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    try config.refuse(
      [
        "use_qk_norm", "qk_norm", "clip_qkv", "attn_logit_softcapping", "final_logit_softcapping", "logit_scale",
        "embedding_multiplier", "residual_multiplier", "attention_multiplier", "logits_scaling", "query_pre_attn_scalar",
        "num_local_experts", "num_experts", "use_mrope", "layer_replication", "parallel_attn",
      ])
    try config.refuse(["pretraining_tp"], unless: [1])
    let usual = Defaults(config)
    let width = try config.int("hidden_size", Limits.width, default: 4096)
    let heads = try config.int("num_attention_heads", Limits.heads, default: 32)
    let silent = config.says("num_key_value_heads") ? nil : usual.keyValueHeads
    let keyValueHeads = try config.int("num_key_value_heads", Limits.heads, default: silent ?? heads)
    guard heads % keyValueHeads == 0 else {
      throw config.fail("\(key: "num_attention_heads") \(heads) is no multiple of num_key_value_heads \(keyValueHeads)")
    }
    if config["head_dim"] == nil, width % heads != 0 {
      throw config.fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)")
    }
    let headSize = try config.int("head_dim", 1...1 << 16, default: width / heads)
    let context = try config.int("max_position_embeddings", Limits.context, default: usual.context)
    let layers = try config.int("num_hidden_layers", Limits.layers, default: 32)
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: usual.vocabulary), width: width, heads: heads,
      keyValueHeads: keyValueHeads, headSize: headSize, layers: layers, contextLength: context, isCausal: true, normsFirst: true, isRMSNorm: true,
      epsilon: Float(try config.double("rms_norm_eps", above: 0, default: 1e-6)),
      activation: try config.activation("hidden_act", default: "silu"), isGated: true,
      rotary: try RotaryPositions(config, size: headSize, context: context), windows: try windows(config, layers: layers),
      padding: config["pad_token_id"]?.int)
  }

  /// What transformers takes where a configuration is silent, if the families differ in it.
  private struct Defaults {
    var (vocabulary, inner, context) = (32000, 11008, 2048)
    /// nil for as many as there are heads.
    var keyValueHeads: Int?

    init(_ config: ConfigReader) {
      switch config["model_type"]?.string {
      case "mistral": (vocabulary, inner, context, keyValueHeads) = (32000, 14336, 131_072, 8)
      case "qwen2": (vocabulary, inner, context, keyValueHeads) = (151_936, 22016, 32768, 32)
      default: break
      }
    }
  }

  /// Sliding windows: of every Mistral layer, of Qwen2's upper layers where they are switched on.
  private static func windows(_ config: ConfigReader, layers: Int) throws -> [Int?] {
    let all = [Int?](repeating: nil, count: layers)
    // Null is none; without the key there is one.
    guard config["model_type"]?.string != "llama", !config.says("sliding_window") || config["sliding_window"] != nil else {
      return all
    }
    let window = try config.int("sliding_window", Limits.context, default: 4096)
    if config["model_type"]?.string == "mistral" { return all.map { _ in window } }
    guard try config.bool("use_sliding_window", default: false) else { return all }
    if let types = config["layer_types"]?.array {
      guard types.count == layers else {
        throw config.fail("\(key: "layer_types") has \(types.count) entries for \(layers) layers")
      }
      return try types.map { type in
        switch type.string {
        case "full_attention": nil
        case "sliding_attention": window
        default: throw config.fail("\(key: "layer_types"): \(quoted(type.text())) is not implemented")
        }
      }
    }
    let first = try config.int("max_window_layers", 0...Limits.layers.upperBound, default: 28)
    return (0..<layers).map { $0 >= first ? window : nil }
  }

  static func weights(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: Defaults(config).inner)
    let type = config["model_type"]?.string
    // Only Llama's configuration says which biases there are.
    func bias(_ key: String) throws -> WeightSource.BiasRule {
      try type == "llama" && config.bool(key, default: false) ? .required : .none
    }
    let outputBias = try bias("attention_bias")
    let attentionBias = type == "qwen2" ? .required : outputBias
    let mlpBias = try bias("mlp_bias")
    let tokens = try source.embedding(
      "model.embed_tokens", count: shape.vocabulary, width: width, sharedWith: isTied(config) ? "lm_head" : nil)
    let layers = try (0..<shape.layers).map { index in
      let layer = "model.layers.\(index)."
      let attention = layer + "self_attn."
      let mlp = layer + "mlp."
      return LayerWeights(
        attentionNorm: try source.norm(layer + "input_layernorm", width: width, hasBias: false),
        queryKeyValue: [
          try source.linear(attention + "q_proj", outputs: shape.queryWidth, inputs: width, bias: attentionBias),
          try source.linear(attention + "k_proj", outputs: shape.keyValueWidth, inputs: width, bias: attentionBias),
          try source.linear(attention + "v_proj", outputs: shape.keyValueWidth, inputs: width, bias: attentionBias),
        ],
        attentionOutput: try source.linear(attention + "o_proj", outputs: width, inputs: shape.queryWidth, bias: outputBias),
        mlpNorm: try source.norm(layer + "post_attention_layernorm", width: width, hasBias: false),
        up: [
          try source.linear(mlp + "gate_proj", outputs: inner, inputs: width, bias: mlpBias),
          try source.linear(mlp + "up_proj", outputs: inner, inputs: width, bias: mlpBias),
        ],
        down: try source.linear(mlp + "down_proj", outputs: width, inputs: inner, bias: mlpBias))
    }
    let norm = try source.norm("model.norm", width: width, hasBias: false)
    let head = try head(shape, config, source, tokens)
    // Some old files hold the frequencies, too; a language head may lie beside a classifier's.
    let language = if case .classification = head { #"|^lm_head\."# } else { "" }
    try source.checkNothingLeft(ignoring: Pattern(#"rotary_emb\.inv_freq$"# + language))
    return TransformerWeights(tokens: tokens, layers: layers, finalNorm: norm, head: head)
  }

  private static func isTied(_ config: ConfigReader) throws -> Bool {
    try config.architectureClass().hasSuffix("ForCausalLM") && config.bool("tie_word_embeddings", default: false)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.begin("score", outputs: labels, inputs: try shape(config).width, hasBias: false)
    return true
  }

  private static func head(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource, _ tokens: Embedding
  ) throws -> Head {
    let name = try config.architectureClass()
    switch name {
    case _ where name.hasSuffix("ForCausalLM"):
      if try isTied(config) { return .language(try source.tied("lm_head", to: tokens)) }
      return .language(try source.linear("lm_head", outputs: shape.vocabulary, inputs: shape.width, bias: .none))
    case _ where name.hasSuffix("ForSequenceClassification"):
      let labels = try config.labelCount()
      return .classification(
        ClassificationHead(
          token: .last, dense: [],
          output: try source.linear("score", outputs: labels, inputs: shape.width, bias: .none),
          problem: try config.problem(labels: labels)))
    case "LlamaModel", "MistralModel", "Qwen2Model": return .none
    default: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
