import NibbleCompute
import NibbleCore

/// A transformer of BERT's kind, whose classes of tokens are one layer, `classifier`, and whose answers another, `qa_outputs`.
protocol EncoderArchitecture: TransformerArchitecture {}

extension EncoderArchitecture {
  static func beginTokenHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool {
    source.begin("classifier", outputs: labels, inputs: try shape(config).width, hasBias: true)
    return true
  }

  static func beginSpanHead(_ config: ConfigReader, _ source: WeightSource) throws -> Bool {
    source.begin("qa_outputs", outputs: 2, inputs: try shape(config).width, hasBias: true)
    return true
  }
}

/// What the weights of a layer of BERT's kind are called: one with biases everywhere, and a norm behind each residual sum.
struct EncoderNames {
  var queryKeyValue: [String]
  /// Layers that make keys and queries of distances.
  var distances: [String] = []
  var attentionOutput: String
  var attentionNorm: String
  var up: String
  var down: String
  var mlpNorm: String
}

extension WeightSource {
  /// A layer of BERT's kind, whose names begin with `layer`.
  func encoderLayer(_ layer: String, _ names: EncoderNames, _ shape: TransformerShape, inner: Int) throws -> LayerWeights {
    let width = shape.width
    func linear(_ name: String, _ outputs: Int, _ inputs: Int) throws -> Linear {
      try self.linear(layer + name, outputs: outputs, inputs: inputs, bias: .required)
    }
    func behind(_ name: String) throws -> BranchNorms { BranchNorms(behind: try norm(layer + name, width: width, hasBias: true)) }
    return LayerWeights(
      attentionNorms: try behind(names.attentionNorm),
      queryKeyValue: try names.queryKeyValue.map { try linear($0, shape.queryWidth, width) },
      distances: try names.distances.map { try linear($0, shape.queryWidth, width) },
      attentionOutput: try linear(names.attentionOutput, width, shape.queryWidth), mlpNorms: try behind(names.mlpNorm),
      up: [try linear(names.up, inner, width)], down: try linear(names.down, width, inner))
  }

  /// A classifier of an encoder's first token: a layer with an activation behind it, and the classes.
  func classifier(
    _ config: ConfigReader, dense: String, activation: Activation = .tanh, output: String, width: Int
  ) throws -> Head {
    let labels = try config.labelCount()
    return .classification(
      ClassificationHead(
        token: .first, dense: [try linear(dense, outputs: width, inputs: width, bias: .required)], activation: activation,
        output: try linear(output, outputs: labels, inputs: width, bias: .required), problem: try config.problem(labels: labels)))
  }

  /// A layer that tells of every token which class it is of.
  func tokenClassifier(_ config: ConfigReader, width: Int) throws -> Head {
    .tokens(RowHead(try linear("classifier", outputs: try config.labelCount(), inputs: width, bias: .required)))
  }

  /// A layer that tells of every token whether an answer begins or ends there.
  func spanMarker(width: Int) throws -> Head { .spans(RowHead(try linear("qa_outputs", outputs: 2, inputs: width, bias: .required))) }

  /// Lets such a classifier begin anew, and the layer before its classes where the checkpoint has none.
  func beginClassifier(_ dense: String, _ output: String, width: Int, labels: Int) {
    if !has(dense + ".weight") { begin(dense, outputs: width, inputs: width, hasBias: true) }
    begin(output, outputs: labels, inputs: width, hasBias: true)
  }
}

/// What transformers takes where the configuration of an encoder of BERT's kind says nothing.
struct EncoderDefaults {
  var vocabulary = 30522
  var width = 768
  var heads = 12
  var layers = 12
  var activation = "gelu"
  var padding = 0
  /// Whether the padding is that one, whatever the configuration says.
  var fixesPadding = false
  /// Whether positions are counted from the padding's id + 1.
  var countsPadding = false
}

extension ConfigReader {
  /// The numbers of an encoder of BERT's kind.
  func encoderShape(_ usual: EncoderDefaults) throws -> TransformerShape {
    try checkQuantization()
    try refuse(["is_decoder", "add_cross_attention"])
    let width = try int("hidden_size", Limits.width, default: usual.width)
    let heads = try int("num_attention_heads", Limits.heads, default: usual.heads)
    guard width % heads == 0 else { throw fail("\(key: "hidden_size") \(width) is no multiple of num_attention_heads \(heads)") }
    let layers = try int("num_hidden_layers", Limits.layers, default: usual.layers)
    let positions = try int("max_position_embeddings", Limits.context, default: 512)
    let told = try int("pad_token_id", 0...Limits.vocabulary.upperBound, default: usual.padding)
    let padding = usual.fixesPadding ? usual.padding : told
    let first = usual.countsPadding ? padding + 1 : 0
    guard positions > first else { throw fail("\(key: "max_position_embeddings") \(positions) leaves no room for tokens") }
    return TransformerShape(
      vocabulary: try int("vocab_size", Limits.vocabulary, default: usual.vocabulary), width: width, heads: heads, keyValueHeads: heads,
      headSize: width / heads, layers: layers, contextLength: positions - first, isCausal: false, isRMSNorm: false,
      epsilon: Float(try double("layer_norm_eps", above: 0, default: 1e-12)),
      activation: try activation("hidden_act", default: usual.activation), isGated: false, firstPosition: first,
      windows: Array(repeating: nil, count: layers), padding: padding)
  }
}

/// The tables of an encoder of BERT's kind, and the norm behind their sum.
struct EncoderTables {
  var tokens, positions, types: Embedding
  var norm: Norm

  /// - Parameters:
  ///   - model: what the names of the model's tensors begin with
  ///   - decoder: the layer of a head that may share the weight of the table of tokens
  init(
    _ model: String, _ shape: TransformerShape, width: Int, _ config: ConfigReader, _ source: WeightSource, sharedWith decoder: String? = nil
  ) throws {
    let name = model + "embeddings."
    tokens = try source.embedding(name + "word_embeddings", count: shape.vocabulary, width: width, sharedWith: decoder)
    positions = try source.embedding(name + "position_embeddings", count: shape.contextLength + shape.firstPosition, width: width)
    types = try source.embedding(
      name + "token_type_embeddings", count: try config.int("type_vocab_size", 1...1 << 16, default: 2), width: width)
    norm = try source.norm(name + "LayerNorm", width: width, hasBias: true)
  }
}

extension MaskedHeadNames {
  /// BERT's own.
  static let bert = MaskedHeadNames(
    dense: "cls.predictions.transform.dense", norm: "cls.predictions.transform.LayerNorm", decoder: "cls.predictions.decoder",
    otherBias: "cls.predictions.bias")
}

extension EncoderNames {
  /// BERT's own.
  static let bert = EncoderNames(
    queryKeyValue: ["attention.self.query", "attention.self.key", "attention.self.value"], attentionOutput: "attention.output.dense",
    attentionNorm: "attention.output.LayerNorm", up: "intermediate.dense", down: "output.dense", mlpNorm: "output.LayerNorm")
}
