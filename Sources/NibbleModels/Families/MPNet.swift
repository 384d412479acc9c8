import NibbleCompute
import NibbleCore

/// MPNet: BERT without token types, which also adds a number for each distance to the scores (`PositionBias`).
enum MPNet: EncoderArchitecture {
  static let modelTypes = ["mpnet"]

  private static let masked = MaskedHeadNames(
    dense: "lm_head.dense", norm: "lm_head.layer_norm", decoder: "lm_head.decoder", otherBias: "lm_head.bias")

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    // Positions are counted from the padding's id + 1, and that is 1 in transformers' code.
    try config.encoderShape(EncoderDefaults(vocabulary: 30527, padding: 1, fixesPadding: true, countsPadding: true))
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 3072)
    let embeddings = "mpnet.embeddings."
    let tokens = try source.embedding(embeddings + "word_embeddings", count: shape.vocabulary, width: width, sharedWith: config.sharedDecoder(masked))
    let positions = try source.embedding(embeddings + "position_embeddings", count: shape.contextLength + shape.firstPosition, width: width)
    let embeddingNorm = try source.norm(embeddings + "LayerNorm", width: width, hasBias: true)
    let names = EncoderNames(
      queryKeyValue: ["attention.attn.q", "attention.attn.k", "attention.attn.v"], attentionOutput: "attention.attn.o",
      attentionNorm: "attention.LayerNorm", up: "intermediate.dense", down: "output.dense", mlpNorm: "output.LayerNorm")
    let layers = try (0..<shape.layers).map { try source.encoderLayer("mpnet.encoder.layer.\($0).", names, shape, inner: inner) }
    let bias = try bias(shape, config, source)
    let head = try head(shape, tokens, config, source)
    // Neither hidden states nor classifiers use the pooler.
    var idle: [Linear] = []
    if case .none = head, source.has("mpnet.pooler.dense.weight") {
      idle.append(try source.linear("mpnet.pooler.dense", outputs: width, inputs: width, bias: .required))
    }
    // Position numbers some files hold; a head for masked tokens beside another one.
    let other: String? = if case .none = head { nil } else { #"^lm_head\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.position_ids$|(^|\.)pooler\."#), head: other)
    return TransformerWeights(
      tokens: tokens, positions: positions, embeddingNorm: embeddingNorm, positionBias: bias, layers: layers, head: head, idle: idle)
  }

  private static func bias(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> PositionBias {
    // transformers looks at 32 rows of the table, however many it has.
    let rows = try config.int("relative_attention_num_buckets", 32...1 << 16, default: 32)
    let table = try source.embedding("mpnet.encoder.relative_attention_bias", count: rows, width: shape.heads)
    return PositionBias(table: table, buckets: 32, longest: 128)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.beginClassifier("classifier.dense", "classifier.out_proj", width: try shape(config).width, labels: labels)
    return true
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    switch try config.architectureClass() {
    case "MPNetForSequenceClassification":
      return try source.classifier(config, dense: "classifier.dense", output: "classifier.out_proj", width: shape.width)
    case "MPNetForQuestionAnswering": return try source.spanMarker(width: shape.width)
    case "MPNetForTokenClassification": return try source.tokenClassifier(config, width: shape.width)
    // The head has its own activation.
    case "MPNetForMaskedLM": return try source.masked(masked, config, shape, tokens: tokens, activation: .gelu)
    case "MPNetModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
