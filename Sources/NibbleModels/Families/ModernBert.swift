import NibbleCompute
import NibbleCore

/// ModernBERT: norms first, rotary positions, a gated MLP, and layers that see only what is near between those that see everything.
enum ModernBert: TransformerArchitecture {
  static let modelTypes = ["modernbert"]

  private static let masked = MaskedHeadNames(dense: "head.dense", norm: "head.norm", decoder: "decoder")

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    try config.refuse(["rope_scaling"], unless: [[:]])
    let width = try config.int("hidden_size", Limits.width, default: 768)
    let heads = try config.int("num_attention_heads", Limits.heads, default: 12)
    guard width % heads == 0 else {
      throw config.fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)")
    }
    let layers = try config.int("num_hidden_layers", Limits.layers, default: 22)
    let every = try config.int("global_attn_every_n_layers", 1...Limits.layers.upperBound, default: 3)
    let isSliding = try config.slidingLayers(layers) ?? (0..<layers).map { $0 % every != 0 }
    // A token sees as many on either side.
    let window = try config.int("local_attention", 0...Limits.context.upperBound, default: 128) / 2 + 1
    var shape = TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: 50368), width: width, heads: heads, keyValueHeads: heads,
      headSize: width / heads, layers: layers,
      contextLength: try config.int("max_position_embeddings", Limits.context, default: 8192), isCausal: false, isRMSNorm: false,
      epsilon: Float(try config.double("norm_eps", above: 0, default: 1e-5)),
      activation: try config.activation("hidden_activation", default: "gelu"), isGated: true,
      windows: isSliding.map { $0 ? window : nil },
      padding: try config.int("pad_token_id", 0...Limits.vocabulary.upperBound, default: 50283))
    shape.rotary = try config.rotaries(
      shape, isSliding, full: .init(base: 160_000, baseKey: "global_rope_theta"), sliding: .init(base: 10_000, baseKey: "local_rope_theta"))
    return shape
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 1152)
    let attentionBias: WeightSource.BiasRule = try config.bool("attention_bias", default: false) ? .required : .none
    let mlpBias: WeightSource.BiasRule = try config.bool("mlp_bias", default: false) ? .required : .none
    let normBias = try config.bool("norm_bias", default: false)
    func norm(_ name: String) throws -> Norm { try source.norm("model." + name, width: width, hasBias: normBias) }
    let tokens = try source.embedding("model.embeddings.tok_embeddings", count: shape.vocabulary, width: width, sharedWith: config.sharedDecoder(masked))
    let embeddingNorm = try norm("embeddings.norm")
    let layers = try (0..<shape.layers).map { index in
      let layer = "layers.\(index)."
      func linear(_ name: String, _ outputs: Int, _ inputs: Int, _ bias: WeightSource.BiasRule) throws -> Linear {
        try source.linear("model." + layer + name, outputs: outputs, inputs: inputs, bias: bias)
      }
      return LayerWeights(
        // The norm of the embeddings is the first layer's.
        attentionNorms: BranchNorms(before: index == 0 ? nil : try norm(layer + "attn_norm")),
        queryKeyValue: [try linear("attn.Wqkv", 3 * width, width, attentionBias)],
        attentionOutput: try linear("attn.Wo", width, width, attentionBias), mlpNorms: BranchNorms(before: try norm(layer + "mlp_norm")),
        up: [try linear("mlp.Wi", 2 * inner, width, mlpBias)], down: try linear("mlp.Wo", width, inner, mlpBias))
    }
    let finalNorm = try norm("final_norm")
    let head = try head(shape, tokens, config, source)
    // The rest of a head for masked tokens beside another one.
    try source.checkNothingLeft(head: { if case .none = head { nil } else { #"^decoder\."# } }())
    return TransformerWeights(
      tokens: tokens, embeddingNorm: embeddingNorm, layers: layers, finalNorm: finalNorm, head: head)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    try begin(config, outputs: labels, source)
    return true
  }

  static func beginTokenHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    try begin(config, outputs: labels, source)
    return true
  }

  static func beginSpanHead(_ config: ConfigReader, _ source: WeightSource) throws -> Bool {
    try begin(config, outputs: 2, source)
    return true
  }

  /// Lets the last layer begin anew, and the one before it where the checkpoint has none.
  private static func begin(_ config: ConfigReader, outputs: Int, _ source: WeightSource) throws {
    let width = try shape(config).width
    if !source.has("head.dense.weight") {
      source.begin("head.dense", outputs: width, inputs: width, hasBias: try config.bool("classifier_bias", default: false))
      source.beginNorm("head.norm", width: width, hasBias: try config.bool("norm_bias", default: false))
    }
    source.begin("classifier", outputs: outputs, inputs: width, hasBias: true)
  }

  /// What all heads make of a state first.
  private static func transform(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> HeadTransform {
    try source.transform(
      masked.dense, masked.norm, shape, width: shape.width, activation: config.activation("classifier_activation", default: "gelu"),
      denseBias: config.bool("classifier_bias", default: false), normBias: config.bool("norm_bias", default: false))
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    let width = shape.width
    switch try config.architectureClass() {
    case "ModernBertForSequenceClassification":
      let labels = try config.labelCount()
      let token: ClassificationHead.Token =
        switch try config.string("classifier_pooling") ?? "cls" {
        case "cls": .first
        case "mean": .mean
        case let other: throw config.fail("\(key: "classifier_pooling") = \(quoted(other)) is not implemented")
        }
      let transform = try transform(shape, config, source)
      return .classification(
        ClassificationHead(
          token: token, dense: [transform.dense], activation: transform.activation, norm: transform.norm,
          output: try source.linear("classifier", outputs: labels, inputs: width, bias: .required),
          problem: try config.problem(labels: labels)))
    case "ModernBertForTokenClassification":
      let transform = try transform(shape, config, source)
      return .tokens(RowHead(try source.linear("classifier", outputs: config.labelCount(), inputs: width, bias: .required), transform: transform))
    case "ModernBertForQuestionAnswering":
      let transform = try transform(shape, config, source)
      return .spans(RowHead(try source.linear("classifier", outputs: 2, inputs: width, bias: .required), transform: transform))
    case "ModernBertForMaskedLM":
      // `sparse_prediction` leaves out scores of tokens without a label, which no loss depends on.
      try config.refuse(["sparse_pred_ignore_index"], unless: [.number("-100")])
      return try source.masked(
        masked, config, shape, tokens: tokens, activation: config.activation("classifier_activation", default: "gelu"),
        denseBias: config.bool("classifier_bias", default: false), normBias: config.bool("norm_bias", default: false),
        decoderBias: config.bool("decoder_bias", default: true))
    case "ModernBertModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
