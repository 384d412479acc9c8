import NibbleCompute
import NibbleCore

/// T5 1.0 and 1.1, FLAN-T5 and mT5: an encoder and a decoder without biases, with RMS norms before every branch, scores that are not scaled, and a
/// number for each distance that the first layer of either has for all.
enum T5: Architecture {
  static let modelTypes = ["t5", "mt5"]

  static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network {
    switch try config.architectureClass() {
    case "T5ForConditionalGeneration", "MT5ForConditionalGeneration": break
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
    try config.checkQuantization()
    try config.refuse(["is_decoder"])
    try config.refuse(["is_encoder_decoder"], unless: [.bool(true)])
    let shape = try shape(config), vocabulary = 0...shape.vocabulary - 1
    let (tokens, copies) = try tokens(shape, source)
    let encoder = try weights("encoder", shape, tokens, config, source)
    var own = shape
    own.isCausal = true
    // As many as the encoder's, where these are called by the family's name: transformers reads the other one later.
    own.layers = try config.int("num_decoder_layers", Limits.layers, default: config.int("num_layers", Limits.layers, default: isMT5(config) ? 8 : 6))
    own.windows = Array(repeating: nil, count: own.layers)
    own.attentionScales = Array(repeating: 1, count: own.layers)
    if try scalesStates(config) { own.logits.divisor = Float(Double(shape.width).squareRoot()) }
    var decoder = try weights("decoder", own, tokens, config, source)
    decoder.head = .language(try source.tied("lm_head", to: tokens))
    // Old files hold a table of distances to the source, which no version of transformers looks at.
    try source.checkNothingLeft(ignoring: Pattern(#"^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$"#))
    return EncoderDecoder(
      Transformer(shape, encoder, engine), Transformer(own, decoder, engine),
      start: try config.int("decoder_start_token_id", vocabulary, default: isMT5(config) ? 0 : nil),
      padding: config.says("pad_token_id") && config["pad_token_id"] == nil ? nil : try config.int("pad_token_id", vocabulary, default: 0),
      tableCopies: copies.map { $0 + ".weight" })
  }

  private static func isMT5(_ config: ConfigReader) -> Bool { config["model_type"]?.string == "mt5" }

  /// Whether states are divided by √width before the head. In T5's configurations the key of tied weights says so; whether weights are tied, the file
  /// does. transformers stores `scale_decoder_outputs` beside it. It never scales mT5's.
  private static func scalesStates(_ config: ConfigReader) throws -> Bool {
    guard !isMT5(config) else { return false }
    return try config.bool("scale_decoder_outputs", default: config.bool("tie_word_embeddings", default: true))
  }

  /// Of the encoder.
  private static func shape(_ config: ConfigReader) throws -> TransformerShape {
    let isMT5 = isMT5(config)
    let layers = try config.int("num_layers", or: "num_hidden_layers", Limits.layers, default: isMT5 ? 8 : 6)
    let heads = try config.int("num_heads", or: "num_attention_heads", Limits.heads, default: isMT5 ? 6 : 8)
    let (activation, isGated) = try feedForward(config)
    var shape = TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: isMT5 ? 250_112 : 32128),
      width: try config.int("d_model", or: "hidden_size", Limits.width, default: 512), heads: heads, keyValueHeads: heads,
      headSize: try config.int("d_kv", or: "head_dim", Limits.width, default: 64), layers: layers, contextLength: Limits.context.upperBound,
      isCausal: false, isRMSNorm: true, epsilon: Float(try config.double("layer_norm_epsilon", above: 0, default: 1e-6)),
      activation: activation, isGated: isGated, windows: Array(repeating: nil, count: layers))
    guard shape.queryWidth <= Limits.width.upperBound else { throw config.fail("\(key: "d_kv") times \(key: "num_heads") is \(shape.queryWidth), which is too large") }
    shape.attentionScales = Array(repeating: 1, count: layers)
    return shape
  }

  /// `feed_forward_proj`: an activation, or one behind `gated-`; gated-gelu means the approximate one. transformers stores what it made of it beside it.
  private static func feedForward(_ config: ConfigReader) throws -> (Activation, isGated: Bool) {
    let key = "feed_forward_proj", text = try config.string(key) ?? (isMT5(config) ? "gated-gelu" : "relu")
    let words = text.split(separator: "-", omittingEmptySubsequences: false).map(String.init)
    guard words.count == 1 || words.count == 2 && words[0] == "gated" else { throw config.fail("\(key: key) = \(quoted(text)) is not implemented") }
    let name = text == "gated-gelu" ? "gelu_new" : words[words.count - 1]
    let read = ConfigReader(["dense_act_fn": config["dense_act_fn"] ?? JSON(name)], place: config.place)
    return (try read.activation("dense_act_fn", default: name), try config.bool("is_gated_act", default: words.count == 2))
  }

  /// The table of tokens that both transformers share, and the names of its copies in the file.
  private static func tokens(_ shape: TransformerShape, _ source: WeightSource) throws -> (Embedding, copies: [String]) {
    let stacks = ["encoder.embed_tokens", "decoder.embed_tokens"]
    let name = (["shared"] + stacks + ["lm_head"]).first { source.has($0 + ".weight") } ?? "shared"
    let tokens = try source.embedding(name, count: shape.vocabulary, width: shape.width)
    let copies = stacks.filter { $0 != name && source.has($0 + ".weight") }
    for copy in copies { try source.checkCopy(copy, of: tokens) }
    return (tokens, copies)
  }

  private static func weights(
    _ stack: String, _ shape: TransformerShape, _ tokens: Embedding, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let width = shape.width, inner = try config.int("d_ff", Limits.width, default: isMT5(config) ? 1024 : 2048)
    let layers = try (0..<shape.layers).map { index in
      let block = "\(stack).block.\(index).layer."
      func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
        try source.linear(block + name, outputs: outputs, inputs: inputs, bias: .none)
      }
      func norm(_ layer: Int) throws -> Norm { try source.norm("\(block)\(layer).layer_norm", width: width, hasBias: false) }
      func projections(_ part: String, _ names: [String]) throws -> [Linear] { try names.map { try linear(part + $0, shape.queryWidth, width) } }
      let last = shape.isCausal ? 2 : 1, mlp = "\(last).DenseReluDense."
      var layer = LayerWeights(
        attentionNorms: BranchNorms(before: try norm(0)), queryKeyValue: try projections("0.SelfAttention.", ["q", "k", "v"]),
        attentionOutput: try linear("0.SelfAttention.o", width, shape.queryWidth), mlpNorms: BranchNorms(before: try norm(last)),
        up: try (shape.isGated ? ["wi_0", "wi_1"] : ["wi"]).map { try linear(mlp + $0, inner, width) }, down: try linear(mlp + "wo", width, inner))
      if shape.isCausal {
        layer.cross = CrossAttention(
          norm: try norm(1), query: try projections("1.EncDecAttention.", ["q"])[0], keyValue: try projections("1.EncDecAttention.", ["k", "v"]),
          output: try linear("1.EncDecAttention.o", width, shape.queryWidth))
      }
      return layer
    }
    let bias = try bias(stack, shape, config, source)
    let norm = try source.norm("\(stack).final_layer_norm", width: width, hasBias: false)
    return TransformerWeights(tokens: tokens, positionBias: bias, layers: layers, finalNorm: norm, head: .none)
  }

  private static func bias(_ stack: String, _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> PositionBias {
    let buckets = try config.int("relative_attention_num_buckets", PositionBias.counts, default: 32)
    // Far distances are spread between the last exact one and this.
    let exact = PositionBias.exact(buckets, isCausal: true)
    let longest = try config.int("relative_attention_max_distance", exact + 1...Limits.context.upperBound, default: 128)
    let table = try source.embedding("\(stack).block.0.layer.0.SelfAttention.relative_attention_bias", count: buckets, width: shape.heads)
    return PositionBias(table: table, buckets: buckets, longest: longest, isCausal: shape.isCausal)
  }
}
