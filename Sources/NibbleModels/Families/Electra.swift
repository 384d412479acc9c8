import NibbleCompute
import NibbleCore

/// ELECTRA: BERT whose embeddings may have a width of their own, without a pooler.
enum Electra: EncoderArchitecture {
  static let modelTypes = ["electra"]

  private static let masked = MaskedHeadNames(
    dense: "generator_predictions.dense", norm: "generator_predictions.LayerNorm", decoder: "generator_lm_head")

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.encoderShape(EncoderDefaults(width: 256, heads: 4))
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let model = "electra."
    let inner = try config.int("intermediate_size", Limits.width, default: 1024)
    let width = try config.int("embedding_size", Limits.width, default: 128)
    let tables = try EncoderTables(model, shape, width: width, config, source, sharedWith: config.sharedDecoder(masked))
    let projection =
      width == shape.width ? nil : try source.linear(model + "embeddings_project", outputs: shape.width, inputs: width, bias: .required)
    let layers = try (0..<shape.layers).map { try source.encoderLayer(model + "encoder.layer.\($0).", .bert, shape, inner: inner) }
    let head = try head(shape, tables.tokens, config, source)
    // Position numbers some files hold; heads of pretraining beside another one.
    let pretraining: String? = if case .none = head { nil } else { #"^(discriminator_predictions|generator_predictions|generator_lm_head)\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.(position_ids|token_type_ids)$"#), head: pretraining)
    return TransformerWeights(
      tokens: tables.tokens, positions: tables.positions, tokenTypes: tables.types, embeddingNorm: tables.norm,
      embeddingProjection: projection, layers: layers, head: head)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.beginClassifier("classifier.dense", "classifier.out_proj", width: try shape(config).width, labels: labels)
    return true
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    switch try config.architectureClass() {
    case "ElectraForSequenceClassification":
      return try source.classifier(config, dense: "classifier.dense", activation: .gelu, output: "classifier.out_proj", width: shape.width)
    case "ElectraForQuestionAnswering": return try source.spanMarker(width: shape.width)
    case "ElectraForTokenClassification": return try source.tokenClassifier(config, width: shape.width)
    // The head has its own activation.
    case "ElectraForMaskedLM": return try source.masked(masked, config, shape, tokens: tokens, activation: .gelu)
    case "ElectraModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
