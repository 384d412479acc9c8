import NibbleCompute
import NibbleCore

/// ALBERT: BERT with embeddings of a width of their own, and layers that share their weights.
enum Albert: EncoderArchitecture {
  static let modelTypes = ["albert"]
  private static let model = "albert."
  private static let masked = MaskedHeadNames(
    dense: "predictions.dense", norm: "predictions.LayerNorm", decoder: "predictions.decoder", otherBias: "predictions.bias")

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    var shape = try config.encoderShape(EncoderDefaults(vocabulary: 30000, width: 4096, heads: 64, activation: "gelu_new"))
    let inner = try innerCount(config)
    guard shape.layers * inner <= Limits.layers.upperBound else {
      throw config.fail("\(key: "inner_group_num") \(inner) makes \(shape.layers * inner) layers, more than \(Limits.layers.upperBound)")
    }
    shape.layers *= inner
    shape.windows = Array(repeating: nil, count: shape.layers)
    return shape
  }

  /// Layers that one round through a group takes.
  private static func innerCount(_ config: ConfigReader) throws -> Int { try config.int("inner_group_num", Limits.layers, default: 1) }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let inner = try config.int("intermediate_size", Limits.width, default: 16384)
    let width = try config.int("embedding_size", Limits.width, default: 128)
    let tables = try EncoderTables(model, shape, width: width, config, source, sharedWith: config.sharedDecoder(masked))
    let projection = try source.linear(model + "encoder.embedding_hidden_mapping_in", outputs: shape.width, inputs: width, bias: .required)
    let groups = try groups(shape, inner: inner, config, source)
    let rounds = shape.layers / max(groups[0].count, 1)
    // As transformers divides, in double precision.
    let layers = (0..<rounds).flatMap { round in
      groups[min(Int(Double(round) / (Double(rounds) / Double(groups.count))), groups.count - 1)]
    }
    let used = Set(layers.map(\.down.id))
    let head = try head(shape, tables.tokens, config, source)
    var idle = groups.joined().filter { !used.contains($0.down.id) }.flatMap(\.linears)
    // No state depends on the pooler.
    if case .none = head, source.has(model + "pooler.weight") {
      idle.append(try source.linear(model + "pooler", outputs: shape.width, inputs: shape.width, bias: .required))
    }
    let pretraining: String? = if case .none = head { nil } else { #"^(predictions|sop_classifier)\."# }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.(position_ids|token_type_ids)$|(^|\.)pooler\.(weight|bias)$"#), head: pretraining)
    return TransformerWeights(
      tokens: tables.tokens, positions: tables.positions, tokenTypes: tables.types, embeddingNorm: tables.norm,
      embeddingProjection: projection, layers: layers, head: head, idle: idle)
  }

  private static func groups(
    _ shape: TransformerShape, inner: Int, _ config: ConfigReader, _ source: WeightSource
  ) throws -> [[LayerWeights]] {
    let names = EncoderNames(
      queryKeyValue: ["attention.query", "attention.key", "attention.value"], attentionOutput: "attention.dense",
      attentionNorm: "attention.LayerNorm", up: "ffn", down: "ffn_output", mlpNorm: "full_layer_layer_norm")
    let each = try innerCount(config)
    return try (0..<config.int("num_hidden_groups", Limits.layers, default: 1)).map { group in
      try (0..<each).map { index in
        try source.encoderLayer(model + "encoder.albert_layer_groups.\(group).albert_layers.\(index).", names, shape, inner: inner)
      }
    }
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.beginClassifier(model + "pooler", "classifier", width: try shape(config).width, labels: labels)
    return true
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    switch try config.architectureClass() {
    case "AlbertForSequenceClassification":
      return try source.classifier(config, dense: model + "pooler", output: "classifier", width: shape.width)
    case "AlbertForQuestionAnswering": return try source.spanMarker(width: shape.width)
    case "AlbertForTokenClassification": return try source.tokenClassifier(config, width: shape.width)
    case "AlbertForMaskedLM": return try source.masked(masked, config, shape, tokens: tokens, activation: shape.activation)
    case "AlbertModel": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
