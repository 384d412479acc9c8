import NibbleCompute
import NibbleCore

/// DistilBERT: BERT without token types and pooler, and a classifier with ReLU.
enum DistilBert: TransformerArchitecture {
  static let modelTypes = ["distilbert"]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    /// The usual names of sizes are accepted, and come first.
    func size(_ name: String, _ usual: String, _ range: ClosedRange<Int>, default fallback: Int) throws -> Int {
      try config.int(config[usual] == nil ? name : usual, range, default: fallback)
    }
    let width = try size("dim", "hidden_size", Limits.width, default: 768)
    let heads = try size("n_heads", "num_attention_heads", Limits.heads, default: 12)
    guard width % heads == 0 else { throw config.fail("\(key: "dim") \(width) is no multiple of n_heads \(heads)") }
    let layers = try size("n_layers", "num_hidden_layers", Limits.layers, default: 6)
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
    let tokens = try source.embedding(embeddings + "word_embeddings", count: shape.vocabulary, width: width)
    let positions = try source.embedding(embeddings + "position_embeddings", count: shape.contextLength, width: width)
    let embeddingNorm = try source.norm(embeddings + "LayerNorm", width: width, hasBias: true)
    let layers = try (0..<shape.layers).map { index in
      let layer = "distilbert.transformer.layer.\(index)."
      func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
        try source.linear(layer + name, outputs: outputs, inputs: inputs, bias: .required)
      }
      return LayerWeights(
        attentionNorms: BranchNorms(behind: try source.norm(layer + "sa_layer_norm", width: width, hasBias: true)),
        queryKeyValue: [
          try linear("attention.q_lin", width, width), try linear("attention.k_lin", width, width),
          try linear("attention.v_lin", width, width),
        ],
        attentionOutput: try linear("attention.out_lin", width, width),
        mlpNorms: BranchNorms(behind: try source.norm(layer + "output_layer_norm", width: width, hasBias: true)),
        up: [try linear("ffn.lin1", inner, width)], down: try linear("ffn.lin2", width, inner))
    }
    let head = try head(shape, config, source)
    // Position numbers some files hold; a head for masked tokens beside a classifier's.
    let masked = if case .classification = head { #"|^vocab_(transform|layer_norm|projector)\."# } else { "" }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.position_ids$"# + masked))
    return TransformerWeights(tokens: tokens, positions: positions, embeddingNorm: embeddingNorm, layers: layers, head: head)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    let width = try shape(config).width
    if !source.has("pre_classifier.weight") { source.begin("pre_classifier", outputs: width, inputs: width, hasBias: true) }
    source.begin("classifier", outputs: labels, inputs: width, hasBias: true)
    return true
  }

  private static func head(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    let width = shape.width
    switch try config.architectureClass() {
    case "DistilBertForSequenceClassification":
      let labels = try config.labelCount()
      return .classification(
        ClassificationHead(
          token: .first, dense: [try source.linear("pre_classifier", outputs: width, inputs: width, bias: .required)],
          activation: .relu, output: try source.linear("classifier", outputs: labels, inputs: width, bias: .required),
          problem: try config.problem(labels: labels)))
    case "DistilBertModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
