import NibbleCompute
import NibbleCore
import NibbleFormats

/// What stands on the states of a network.
package enum Head: Sendable {
  /// Scores of every token of the vocabulary, for the token that follows.
  case language(Linear)
  /// The same for the token itself, which a mask may hide.
  case masked(RowHead)
  /// Scores of classes, from some rows of each input.
  case classification(ClassificationHead)
  /// Scores of classes of every token.
  case tokens(RowHead)
  /// Two scores of every row: that an answer begins there, and that it ends there.
  case spans(RowHead)
  /// Nothing: hidden states are the result.
  case none
}

package struct ClassificationHead: Sendable {
  /// Tokens of a sequence, or positions of an image.
  package enum Token: String, Sendable, CaseIterable {
    case first, second, last
    /// All that are no padding, on average.
    case mean
  }
  package enum Problem: Sendable { case oneLabel, manyLabels, regression }
  /// The token whose hidden state is looked at.
  package var token: Token
  /// Layers with an activation behind them, before the last.
  package var dense: [Linear]
  package var activation: Activation
  /// Of what those layers give.
  package var norm: HeadNorm?
  package var output: Linear
  /// Another layer of classes, which looks at the second token: scores are the mean of both (DeiT).
  package var second: Linear?
  package var problem: Problem

  package init(
    token: Token, dense: [Linear], activation: Activation = .tanh, norm: HeadNorm? = nil, output: Linear, problem: Problem
  ) {
    (self.token, self.dense, self.activation, self.norm) = (token, dense, activation, norm)
    (self.output, self.problem) = (output, problem)
  }
}

extension ClassificationHead {
  /// In the order of the pass.
  package var layers: [Linear] { dense + [output] + (second.map { [$0] } ?? []) }
}

/// A layer norm in a head.
package struct HeadNorm: Sendable {
  package var norm: Norm
  package var epsilon: Float

  package init(_ norm: Norm, epsilon: Float) { (self.norm, self.epsilon) = (norm, epsilon) }
}

extension Head {
  /// Its layers, in the order of the pass.
  package var layers: [Linear] {
    switch self {
    case .language(let head): [head]
    case .masked(let head), .tokens(let head), .spans(let head): head.layers
    case .classification(let head): head.layers
    case .none: []
    }
  }

  /// Whether it is the task's own, which is trained whole beside an adapter: one of classes, or for answers.
  package var isOfTask: Bool {
    switch self {
    case .classification, .tokens, .spans: true
    case .language, .masked, .none: false
    }
  }

  /// What scores every token, the next ones, the hidden ones or the classes of each: what is trained with a label for each.
  package var scorer: RowHead? {
    switch self {
    case .language(let head): RowHead(head)
    case .masked(let head), .tokens(let head): head
    case .classification, .spans, .none: nil
    }
  }

  /// The layer that scores the vocabulary.
  package var vocabulary: Linear? {
    switch self {
    case .language(let head): head
    case .masked(let head): head.output
    case .classification, .tokens, .spans, .none: nil
    }
  }

  /// Whether the scores of a token are for the one behind it.
  package var looksAhead: Bool { if case .language = self { true } else { false } }

  package var norms: [Norm] {
    switch self {
    case .classification(let head): [head.norm?.norm].compactMap { $0 }
    case .masked(let head), .tokens(let head), .spans(let head): [head.transform?.norm.norm].compactMap { $0 }
    case .language, .none: []
    }
  }
}

/// A family that nibble runs. What else has to be known of it says its `ModelFamily`.
package protocol Architecture: Sendable {
  /// `model_type`s whose configurations it reads.
  static var modelTypes: [String] { get }
  /// The network that a configuration describes, with its weights in place.
  ///
  /// - Throws: `.badInput` naming what the configuration asks for and is not implemented, and for tensors that are missing, left over
  ///   or of the wrong shape
  static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network
  /// Lets the layers of the family's classification head begin anew where `source` does not hold them. The last one always does.
  ///
  /// - Returns: false for a family without such a head
  static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool
  /// The same for the layer of the family's class for classes of tokens.
  static func beginTokenHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool
  /// The same for the layer of the family's class for answers marked in a text.
  static func beginSpanHead(_ config: ConfigReader, _ source: WeightSource) throws -> Bool
}

extension Architecture {
  package static func beginHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool { false }
  package static func beginTokenHead(_ config: ConfigReader, labels: Int, _ source: WeightSource) throws -> Bool { false }
  package static func beginSpanHead(_ config: ConfigReader, _ source: WeightSource) throws -> Bool { false }
}

/// A family of transformers: numbers and weights of one.
package protocol TransformerArchitecture: Architecture {
  /// - Throws: `.badInput` naming what the configuration asks for and is not implemented
  static func shape(_ config: ConfigReader) throws -> TransformerShape
  static func weights(_ shape: TransformerShape, _ config: ConfigReader, _ source: WeightSource) throws -> TransformerWeights
}

extension TransformerArchitecture {
  package static func network(_ config: ConfigReader, _ source: WeightSource, _ engine: Engine) throws -> any Network {
    let shape = try shape(config)
    return Transformer(shape, try weights(shape, config, source), engine)
  }
}

/// A list of families that run.
package struct Architectures: Sendable {
  /// Those of nibble. A further family is one more file and its name here.
  package static let all = Architectures([
    Llama.self, Mixtral.self, GptOss.self, Qwen.self, Qwen2Moe.self, Qwen3Moe.self, Deepseek.self, Glm4Moe.self, SmolLM3.self, Olmo2.self, Olmo3.self, Olmoe.self, Gemma.self, Gemma2.self,
    Gemma3.self, Granite.self, Granite4.self, Ministral3.self, Llama4.self, Phi3.self, Glm.self, Starcoder2.self, GPTNeoX.self, Falcon.self, Phi.self, GPT2.self, Bert.self, DistilBert.self,
    Electra.self, Albert.self, MPNet.self, ModernBert.self, Deberta.self, T5.self, ResNet.self, ViT.self,
  ])

  private let types: [any Architecture.Type]

  package init(_ types: [any Architecture.Type]) { self.types = types }

  package func named(_ modelType: String) -> (any Architecture.Type)? {
    types.first { $0.modelTypes.contains(modelType) }
  }

  package var modelTypes: [String] { types.flatMap { $0.modelTypes } }
}

/// Limits on what a configuration may say, far above any model there is.
enum Limits {
  static let width = 1...1 << 20
  static let layers = 1...10_000
  static let heads = 1...1 << 16
  static let vocabulary = 1...1 << 26
  static let context = 1...1 << 26
  static let length = 0...1 << 26
}

extension ConfigReader {
  /// `hidden_act` and its other names.
  func activation(_ key: String, default name: String) throws -> Activation {
    let names: [String: Activation] = [
      "silu": .silu, "swish": .silu, "gelu": .gelu, "gelu_new": .geluTanh, "gelu_fast": .geluTanh, "gelu_pytorch_tanh": .geluTanh,
      "gelu_python_tanh": .geluTanh, "gelu_accurate": .geluTanh, "gelu_python": .gelu, "gelu_10": .gelu10, "relu": .relu,
      "relu2": .relu2, "leaky_relu": .leakyRelu, "tanh": .tanh, "sigmoid": .sigmoid, "mish": .mish, "linear": .linear,
      "quick_gelu": .quickGelu,
    ]
    let name = try string(key) ?? name
    guard let activation = names[name] else { throw fail("\(key: key) = \(quoted(name)) is not implemented") }
    return activation
  }

  /// The one class of `architectures`, which decides the head.
  func architectureClass() throws -> String {
    guard let classes = self["architectures"]?.array, let name = classes.first?.string else {
      throw fail("architectures is missing, so the kind of output head is not known")
    }
    return name
  }

  /// Classes a classification head tells apart.
  func labelCount() throws -> Int {
    if let labels = try object("id2label")?.json.members?.count, labels > 0 { return labels }
    return try int("num_labels", 1...1 << 20, default: 2)
  }

  func problem(labels: Int) throws -> ClassificationHead.Problem {
    switch try string("problem_type") {
    case "single_label_classification": .oneLabel
    case "multi_label_classification": .manyLabels
    case "regression": .regression
    // Of several labels, one: transformers infers from the labels, and numbers that are not whole would make it many.
    case nil: labels == 1 ? .regression : .oneLabel
    case let other?: throw fail("\(key: "problem_type") = \(quoted(other)) is not implemented")
    }
  }

  /// Refuses quantization methods other than those whose codes the checkpoint has read.
  func checkQuantization() throws {
    guard let method = try object("quantization_config")?.string("quant_method"),
      !Checkpoint.readsWeights(quantizedBy: method)
    else { return }
    throw fail("\(key: "quantization_config"): quant_method = \(quoted(method)) is not implemented")
  }
}
