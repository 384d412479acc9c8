import NibbleCompute
import NibbleCore

/// DeBERTa 2 and 3: BERT whose attention also weighs how far tokens are apart (`RelativePositions`).
enum Deberta: EncoderArchitecture {
  static let modelTypes = ["deberta-v2"]

  /// Whether a head for masked tokens is BERT's, and not the one of DeBERTa's authors.
  private static func isLegacy(_ config: ConfigReader) throws -> Bool { try config.bool("legacy", default: true) }

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    try config.refuse(["conv_kernel_size"], unless: [0])
    let width = try config.int("hidden_size", Limits.width, default: 1536)
    try config.refuse(["embedding_size", "pooler_hidden_size"], unless: [.number(String(width))])
    let heads = try config.int("num_attention_heads", Limits.heads, default: 24)
    guard width % heads == 0 else {
      throw config.fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)")
    }
    let headSize = try config.int("attention_head_size", 1...1 << 16, default: width / heads)
    let layers = try config.int("num_hidden_layers", Limits.layers, default: 24)
    let terms = try positionTerms(config)
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: 128_100), width: width, heads: heads, keyValueHeads: heads,
      headSize: headSize, layers: layers, contextLength: try config.int("max_position_embeddings", Limits.context, default: 512),
      isCausal: false, isRMSNorm: false, epsilon: Float(try config.double("layer_norm_eps", above: 0, default: 1e-7)),
      activation: try config.activation("hidden_act", default: "gelu"), isGated: false, windows: Array(repeating: nil, count: layers),
      padding: try config.int("pad_token_id", 0...Limits.vocabulary.upperBound, default: 0),
      // Each term of the scores counts, whether distances are looked at or not.
      attentionScales: Array(repeating: 1 / Float(headSize * (1 + terms.filter(["c2p", "p2c"].contains).count)).squareRoot(), count: layers))
  }

  /// `pos_att_type`, a list or words with | between.
  private static func positionTerms(_ config: ConfigReader) throws -> Set<String> {
    guard let value = config["pos_att_type"] else { return [] }
    if let text = value.string { return Set(text.lowercased().split(separator: "|").map { $0.filter { $0 != " " } }) }
    guard let terms = value.array, terms.allSatisfy({ $0.string != nil }) else {
      throw config.wrong("pos_att_type", value, "a list of names")
    }
    return Set(terms.compactMap(\.string))
  }

  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("intermediate_size", Limits.width, default: 6144)
    let embeddings = "deberta.embeddings.", encoder = "deberta.encoder."
    let tokens = try source.embedding(
      embeddings + "word_embeddings", count: shape.vocabulary, width: width, sharedWith: isLegacy(config) ? config.sharedDecoder(.bert) : nil)
    let hasPositions = try config.bool("position_biased_input", default: true)
    let positions =
      hasPositions ? try source.embedding(embeddings + "position_embeddings", count: shape.contextLength, width: width) : nil
    let typeCount = try config.int("type_vocab_size", 0...1 << 16, default: 0)
    let types = typeCount > 0 ? try source.embedding(embeddings + "token_type_embeddings", count: typeCount, width: width) : nil
    let embeddingNorm = try source.norm(embeddings + "LayerNorm", width: width, hasBias: true)
    let relative = try relative(shape, config, source)
    let hasOwn = try relative != nil && !config.bool("share_att_key", default: false)
    func attention(_ parts: String...) -> [String] { parts.map { "attention.self.\($0)_proj" } }
    let names = EncoderNames(
      queryKeyValue: attention("query", "key", "value"),
      distances: (hasOwn && relative?.hasKeys == true ? attention("pos_key") : [])
        + (hasOwn && relative?.hasQueries == true ? attention("pos_query") : []),
      attentionOutput: "attention.output.dense", attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense",
      down: "output.dense", mlpNorm: "output.LayerNorm")
    let layers = try (0..<shape.layers).map { try source.encoderLayer(encoder + "layer.\($0).", names, shape, inner: inner) }
    let head = try head(shape, tokens, config, source)
    // Heads for masked tokens beside what is asked for; positions that only those heads use; a norm of distances nobody looks at.
    let heads = #"^(cls|lm_predictions|mask_predictions)\."#
    let positionTable = hasPositions ? "" : #"|(^|\.)embeddings\.position_embeddings\."#
    let distances = relative == nil ? #"|(^|\.)encoder\.LayerNorm\."# : ""
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)embeddings\.position_ids$"# + positionTable + distances), head: heads)
    return TransformerWeights(
      tokens: tokens, positions: positions, tokenTypes: types, embeddingNorm: embeddingNorm, relative: relative, layers: layers, head: head)
  }

  private static func relative(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> RelativePositions? {
    guard try config.bool("relative_attention", default: false) else { return nil }
    let terms = try positionTerms(config)
    let told = try config.int("max_relative_positions", -1...Limits.context.upperBound, default: -1)
    let longest = told < 1 ? shape.contextLength : told
    let buckets = max(0, try config.int("position_buckets", -1...Limits.context.upperBound, default: -1))
    if buckets > 0, shape.contextLength > buckets / 2 + 1, longest - 1 <= buckets / 2 || buckets < 4 {
      throw config.fail("\(key: "position_buckets") \(buckets) leaves no room among \(longest) distances")
    }
    let span = buckets > 0 ? buckets : longest
    let table = try source.embedding("deberta.encoder.rel_embeddings", count: 2 * span, width: shape.width)
    let kinds = (try config.string("norm_rel_ebd") ?? "none").lowercased().split(separator: "|").map { $0.filter { $0 != " " } }
    let norm = kinds.contains("layer_norm") ? try source.norm("deberta.encoder.LayerNorm", width: shape.width, hasBias: true) : nil
    return RelativePositions(
      table: table, norm: norm, buckets: buckets, longest: longest, hasKeys: terms.contains("c2p"), hasQueries: terms.contains("p2c"))
  }

  /// What the first files are, which do not say it: by the layers of a head, or without one.
  private static func silentClass(_ source: WeightSource) -> String {
    guard source.has("classifier.weight") else { return source.has("qa_outputs.weight") ? "DebertaV2ForQuestionAnswering" : "DebertaV2Model" }
    return source.has("pooler.dense.weight") ? "DebertaV2ForSequenceClassification" : "DebertaV2ForTokenClassification"
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.beginClassifier("pooler.dense", "classifier", width: try shape(config).width, labels: labels)
    return true
  }

  /// The head of DeBERTa's authors, which multiplies with the embedding's own weight.
  private static func masked(_ shape: TransformerShape, _ tokens: Embedding, _ source: WeightSource) throws -> Head {
    let name = "lm_predictions.lm_head"
    let transform = try source.transform(name + ".dense", name + ".LayerNorm", shape, width: shape.width, activation: shape.activation)
    let bias = try source.vector(name + ".bias", count: tokens.count)
    let output = Linear(name: name, id: source.register(name + ".weight"), matrix: tokens.matrix, bias: bias, isConv1D: false)
    var head = RowHead(output, transform: transform)
    head.isModule = false
    return .masked(head)
  }

  private static func head(_ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource) throws -> Head {
    switch config.says("architectures") ? try config.architectureClass() : silentClass(source) {
    case "DebertaV2ForSequenceClassification":
      let activation = try config.activation("pooler_hidden_act", default: "gelu")
      return try source.classifier(config, dense: "pooler.dense", activation: activation, output: "classifier", width: shape.width)
    case "DebertaV2ForTokenClassification": return try source.tokenClassifier(config, width: shape.width)
    case "DebertaV2ForQuestionAnswering": return try source.spanMarker(width: shape.width)
    case "DebertaV2ForMaskedLM":
      guard try isLegacy(config) else { return try masked(shape, tokens, source) }
      return try source.masked(.bert, config, shape, tokens: tokens, activation: shape.activation)
    case "DebertaV2Model": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
