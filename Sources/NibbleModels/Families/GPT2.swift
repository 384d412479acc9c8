import NibbleCompute
import NibbleCore

/// GPT-2: learned positions, layer norms before, one projection for queries, keys and values.
enum GPT2: TransformerArchitecture {
  static let modelTypes = ["gpt2"]

  static func shape(_ config: ConfigReader) throws -> TransformerShape {
    try config.checkQuantization()
    try config.refuse(["add_cross_attention"])
    let width = try config.int("n_embd", or: "hidden_size", Limits.width, default: 768)
    let heads = try config.int("n_head", or: "num_attention_heads", Limits.heads, default: 12)
    guard width % heads == 0 else { throw config.fail("\(key: "n_embd") \(width) is no multiple of n_head \(heads)") }
    let layers = try config.int("n_layer", or: "num_hidden_layers", Limits.layers, default: 12)
    let context = try config.int("n_positions", or: "max_position_embeddings", Limits.context, default: 1024)
    return TransformerShape(
      vocabulary: try config.int("vocab_size", Limits.vocabulary, default: 50257), width: width, heads: heads,
      keyValueHeads: heads, headSize: width / heads, layers: layers, contextLength: context,
      isCausal: true, isRMSNorm: false,
      epsilon: Float(try config.double("layer_norm_epsilon", above: 0, default: 1e-5)),
      activation: try config.activation("activation_function", default: "gelu_new"), isGated: false,
      windows: Array(repeating: nil, count: layers), padding: config["pad_token_id"]?.int,
      attentionScales: try attentionScales(config, headSize: width / heads, layers: layers))
  }

  /// What scores of each layer's attention are multiplied with, where the configuration asks for another than the usual factor.
  private static func attentionScales(_ config: ConfigReader, headSize: Int, layers: Int) throws -> [Float]? {
    let isScaled = try config.bool("scale_attn_weights", default: true)
    let fallsWithDepth = try config.bool("scale_attn_by_inverse_layer_idx", default: false)
    guard !isScaled || fallsWithDepth else { return nil }
    let first = isScaled ? 1 / Double(headSize).squareRoot() : 1
    return (0..<layers).map { Float(fallsWithDepth ? first / Double($0 + 1) : first) }
  }

  static func weights(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource
  ) throws -> TransformerWeights {
    let width = shape.width
    let inner = try config.int("n_inner", Limits.width, default: 4 * width)
    let tokens = try source.embedding(
      "transformer.wte", count: shape.vocabulary, width: width, sharedWith: isTied(config) ? "lm_head" : nil)
    let positions = try source.embedding("transformer.wpe", count: shape.contextLength, width: width)
    let layers = try (0..<shape.layers).map { index in
      let layer = "transformer.h.\(index)."
      func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
        try source.linear(layer + name, outputs: outputs, inputs: inputs, bias: .required, isConv1D: true)
      }
      return LayerWeights(
        attentionNorms: BranchNorms(before: try source.norm(layer + "ln_1", width: width, hasBias: true)),
        queryKeyValue: [try linear("attn.c_attn", 3 * width, width)],
        attentionOutput: try linear("attn.c_proj", width, width),
        mlpNorms: BranchNorms(before: try source.norm(layer + "ln_2", width: width, hasBias: true)),
        up: [try linear("mlp.c_fc", inner, width)],
        down: try linear("mlp.c_proj", width, inner))
    }
    let norm = try source.norm("transformer.ln_f", width: width, hasBias: true)
    let head = try head(shape, config, source, tokens)
    // Causal masks that old files hold as tensors; a language head may lie beside a classifier's.
    let language: String? = if case .classification = head { #"^lm_head\."# } else { nil }
    try source.checkNothingLeft(ignoring: Pattern(#"(^|\.)h\.\d+\.attn\.(bias|masked_bias)$"#), head: language)
    return TransformerWeights(tokens: tokens, positions: positions, layers: layers, finalNorm: norm, head: head)
  }

  private static func isTied(_ config: ConfigReader) throws -> Bool {
    try config.architectureClass() == "GPT2LMHeadModel" && config.bool("tie_word_embeddings", default: true)
  }

  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.begin("score", outputs: labels, inputs: try shape(config).width, hasBias: false)
    return true
  }

  private static func head(
    _ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource, _ tokens: Embedding
  ) throws -> Head {
    switch try config.architectureClass() {
    case "GPT2LMHeadModel":
      if try isTied(config) { return .language(try source.tied("lm_head", to: tokens)) }
      return .language(try source.linear("lm_head", outputs: shape.vocabulary, inputs: shape.width, bias: .none))
    case "GPT2ForSequenceClassification":
      let labels = try config.labelCount()
      return .classification(
        ClassificationHead(
          token: .last, dense: [], output: try source.linear("score", outputs: labels, inputs: shape.width, bias: .none),
          problem: try config.problem(labels: labels)))
    case "GPT2Model": return .none
    case let name: throw config.fail("architecture \(quoted(name)) is not implemented")
    }
  }
}
