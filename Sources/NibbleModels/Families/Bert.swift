import NibbleCompute
import NibbleCore

/// BERT and RoBERTa encoders: learned positions and token types, layer norms after each residual sum.
enum Bert: EncoderArchitecture {
  static let modelTypes = ["bert", "roberta", "xlm-roberta", "camembert"]

  private static func isRoberta(_ config: ConfigReader) -> Bool { config["model_type"]?.string != "bert" }

  private static func prefix(_ config: ConfigReader) -> String { isRoberta(config) ? "roberta." : "bert." }

  private static func masked(_ config: ConfigReader) -> MaskedHeadNames {
    isRoberta(config)
      ? MaskedHeadNames(dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", otherBias: "lm_head.bias") : .bert
  }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.refuse(["position_embedding_type"], unless: ["absolute"])
    return try config.encoderShape(
      EncoderDefaults(
        vocabulary: config["model_type"]?.string == "roberta" ? 50265 : 30522, padding: isRoberta(config) ? 1 : 0,
        // RoBERTa counts positions from the padding's id + 1.
        countsPadding: isRoberta(config)))
  }

  static func weights(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 3072)
    let model = prefix(config)
    let tables = try EncoderTables(model, shape, width: width, config, source, sharedWith: config.sharedDecoder(masked(config)))
    let layers = try (0..<shape.layers).map { try source.encoderLayer(model + "encoder.layer.\($0).", .bert, shape, inner: inner) }
    let head = try head(shape, tables.tokens, config, source)
    // Neither hidden states nor RoBERTa's classifiers use the pooler.
    var idle: [Linear] = []
    if case .none = head, source.has(model + "pooler.dense.weight") {
      idle.append(try source.linear(model + "pooler.dense", outputs: width, inputs: width, bias: .required))
    }
    // Position numbers some files hold; a head for masked tokens beside another one.
    let other: String? = if case .none = head { nil } else { #"^cls\.|^lm_head\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.(position_ids|token_type_ids)$|(^|\.)pooler\."#), head: other)
    return TransformerWeights(
      tokens: tables.tokens, positions: tables.positions, tokenTypes: tables.types, embeddingNorm: tables.norm, layers: layers, head: head,
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

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    let width = shape.width
    let name = try config.architectureClass()
    switch name {
    case "BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification",
      "CamembertForSequenceClassification":
      let (dense, output) = classifier(config)
      return try source.classifier(config, dense: dense, output: output, width: width)
    case "BertForQuestionAnswering", "RobertaForQuestionAnswering", "XLMRobertaForQuestionAnswering", "CamembertForQuestionAnswering":
      return try source.spanMarker(width: width)
    case "BertForMaskedLM", "RobertaForMaskedLM", "XLMRobertaForMaskedLM", "CamembertForMaskedLM":
      // RoBERTa's head has its own activation.
      return try source.masked(masked(config), config, shape, tokens: tokens, activation: isRoberta(config) ? .gelu : shape.activation)
    case "BertForTokenClassification", "RobertaForTokenClassification", "XLMRobertaForTokenClassification", "CamembertForTokenClassification":
      return try source.tokenClassifier(config, width: width)
    case "BertModel", "RobertaModel", "XLMRobertaModel", "CamembertModel": return .none
    default: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
