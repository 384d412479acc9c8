import NibbleCompute
import NibbleCore

/// DistilBERT: BERT without token types and pooler, and a classifier with ReLU.
enum DistilBert: EncoderArchitecture {
  static let modelTypes = ["distilbert"]

  private static let masked = MaskedHeadNames(dense: "vocab_transform", norm: "vocab_layer_norm", decoder: "vocab_projector")

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    let width = try config.int("dim", or: "hidden_size", Limits.width, default: 768)
    let heads = try config.int("n_heads", or: "num_attention_heads", Limits.heads, default: 12)
    guard width % heads == 0 else { throw config.fail("\(key: "dim") \(width) is no multiple of n_heads \(heads)") }
    let layers = try config.int("n_layers", or: "num_hidden_layers", Limits.layers, default: 6)
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: 30522), width: width, heads: heads, keyValueHeads: heads,
      headSize: width / heads, layers: layers,
      contextLength: try config.int("max_position_embeddings", Limits.context, default: 512), isCausal: false,
      isRMSNorm: false, epsilon: 1e-12, activation: try config.activation("activation", default: "gelu"), isGated: false,
      windows: Array(repeating: nil, count: layers),
      padding: try config.int("pad_token_id", 0...Limits.vocabulary.upperBound, default: 0))
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("hidden_dim", Limits.width, default: 3072)
    let embeddings = "distilbert.embeddings."
    let tokens = try source.embedding(embeddings + "word_embeddings", count: shape.vocabulary, width: width, sharedWith: config.sharedDecoder(masked))
    let positions = try source.embedding(embeddings + "position_embeddings", count: shape.contextLength, width: width)
    let embeddingNorm = try source.norm(embeddings + "LayerNorm", width: width, hasBias: true)
    let names = EncoderNames(
      queryKeyValue: ["attention.q_lin", "attention.k_lin", "attention.v_lin"], attentionOutput: "attention.out_lin",
      attentionNorm: "sa_layer_norm", up: "ffn.lin1", down: "ffn.lin2", mlpNorm: "output_layer_norm")
    let layers = try (0..<shape.layers).map {
      try source.encoderLayer("distilbert.transformer.layer.\($0).", names, shape, inner: inner)
    }
    let head = try head(shape, tokens, config, source)
    // Position numbers some files hold; a head for masked tokens beside another one.
    let other: String? = if case .none = head { nil } else { #"^vocab_(transform|layer_norm|projector)\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.position_ids$"#), head: other)
    return TransformerWeights(tokens: tokens, positions: positions, embeddingNorm: embeddingNorm, layers: layers, head: head)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.beginClassifier("pre_classifier", "classifier", width: try shape(config).width, labels: labels)
    return true
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    switch try config.architectureClass() {
    case "DistilBertForSequenceClassification":
      return try source.classifier(
        config, dense: "pre_classifier", activation: .relu, output: "classifier", width: shape.width)
    case "DistilBertForQuestionAnswering": return try source.spanMarker(width: shape.width)
    case "DistilBertForTokenClassification": return try source.tokenClassifier(config, width: shape.width)
    case "DistilBertForMaskedLM": return try source.masked(masked, config, shape, tokens: tokens, activation: shape.activation)
    case "DistilBertModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
