import NibbleCompute
import NibbleCore

/// BERT and RoBERTa encoders: learned positions and token types, layer norms after each residual sum.
enum Bert: TransformerArchitecture {
  static let modelTypes = ["bert", "roberta", "xlm-roberta", "camembert"]

  private static func isRoberta(_ config: ConfigReader) -> Bool { config["model_type"]?.string != "bert" }

  private static func prefix(_ config: ConfigReader) -> String { isRoberta(config) ? "roberta." : "bert." }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    try config.refuse(["is_decoder", "add_cross_attention"])
    try config.refuse(["position_embedding_type"], unless: ["absolute"])
    let width = try config.int("hidden_size", Limits.width, default: 768)
    let heads = try config.int("num_attention_heads", Limits.heads, default: 12)
    guard width % heads == 0 else {
      throw config.fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)")
    }
    let layers = try config.int("num_hidden_layers", Limits.layers, default: 12)
    let positions = try config.int("max_position_embeddings", Limits.context, default: 512)
    let padding = try config.int("pad_token_id", 0...Limits.vocabulary.upperBound, default: isRoberta(config) ? 1 : 0)
    // RoBERTa counts positions from the padding's id + 1.
    let first = isRoberta(config) ? padding + 1 : 0
    guard positions > first else { throw config.fail("\(key: "max_position_embeddings") \(positions) leaves no room for tokens") }
    let vocabulary = config["model_type"]?.string == "roberta" ? 50265 : 30522
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: vocabulary), width: width, heads: heads,
      keyValueHeads: heads, headSize: width / heads, layers: layers, contextLength: positions - first, isCausal: false,
      isRMSNorm: false, epsilon: Float(try config.double("layer_norm_eps", above: 0, default: 1e-12)),
      activation: try config.activation("hidden_act", default: "gelu"), isGated: false, firstPosition: first,
      windows: Array(repeating: nil, count: layers), padding: padding)
  }

  static func weights(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 3072)
    let model = prefix(config)
    let embeddings = model + "embeddings."
    let tokens = try source.embedding(embeddings + "word_embeddings", count: shape.vocabulary, width: width)
    let positions = try source.embedding(
      embeddings + "position_embeddings", count: shape.contextLength + shape.firstPosition, width: width)
    let types = try source.embedding(
      embeddings + "token_type_embeddings", count: try config.int("type_vocab_size", 1...1 << 16, default: 2), width: width)
    let embeddingNorm = try source.norm(embeddings + "LayerNorm", width: width, hasBias: true)
    let names = EncoderNames(
      queryKeyValue: ["attention.self.query", "attention.self.key", "attention.self.value"], attentionOutput: "attention.output.dense",
      attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense", down: "output.dense", mlpNorm: "output.LayerNorm")
    let layers = try (0..<shape.layers).map { try source.encoderLayer(model + "encoder.layer.\($0).", names, shape, inner: inner) }
    let head = try head(shape, config, source)
    // Neither hidden states nor RoBERTa's classifiers use the pooler.
    var idle: [Linear] = []
    if case .none = head, source.has(model + "pooler.dense.weight") {
      idle.append(try source.linear(model + "pooler.dense", outputs: width, inputs: width, bias: .required))
    }
    // Position numbers some files hold; a head for masked tokens beside another one.
    let masked = if case .none = head { "" } else { #"|^cls\.|^lm_head\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.(position_ids|token_type_ids)$|(^|\.)pooler\."# + masked))
    return TransformerWeights(
      tokens: tokens, positions: positions, tokenTypes: types, embeddingNorm: embeddingNorm, layers: layers, head: head,
      idle: idle)
  }

  /// The layers of a classifier.
  private static func classifier(_ config: ConfigReader) -> (dense: String, output: String) {
    isRoberta(config) ? ("classifier.dense", "classifier.out_proj") : ("bert.pooler.dense", "classifier")
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    let (dense, output) = classifier(config)
    source.beginClassifier(dense, output, width: try shape(config).width, labels: labels)
    return true
  }

  private static func head(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    let width = shape.width
    let name = try config.architectureClass()
    switch name {
    case "BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification",
      "CamembertForSequenceClassification":
      let (dense, output) = classifier(config)
      return try source.classifier(config, dense: dense, output: output, width: width)
    case "BertForQuestionAnswering", "RobertaForQuestionAnswering", "XLMRobertaForQuestionAnswering", "CamembertForQuestionAnswering":
      return .spans(try source.linear("qa_outputs", outputs: 2, inputs: width, bias: .required))
    case "BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel": return .none
    default: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
