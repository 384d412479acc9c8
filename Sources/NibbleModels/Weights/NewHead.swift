import NibbleAdapters
import NibbleCompute
import NibbleCore

/// A head for a base that has none, or another: of classes, or for answers marked in a text.
public struct NewHead: Sendable, Equatable {
  /// What of a sequence the head looks at.
  public enum Pooling: String, Sendable, CaseIterable {
    /// What transformers' class for the family looks at, through the same layers.
    case model
    /// Every token by itself, as transformers' class for classes of tokens has it.
    case each
    /// Every token by itself, as the first of an answer and as the last: transformers' class for question answering.
    case span
    /// One layer on a token's state, or on the mean of all: heads that only nibble has.
    case first, last, mean
  }

  /// Classes; 1 for a number that is to be estimated.
  public var labels: Int
  public var pooling: Pooling
  /// Whether a text may have several classes.
  public var hasManyLabels: Bool
  /// What the classes are called; empty where they are numbers.
  public var names: [String]
  /// Of the random numbers it begins with.
  public var seed: Int

  public init(labels: Int, pooling: Pooling = .model, hasManyLabels: Bool = false, names: [String] = [], seed: Int = 0) {
    (self.labels, self.pooling, self.hasManyLabels, self.names, self.seed) = (labels, pooling, hasManyLabels, names, seed)
  }

  /// The module's path.
  package static let name = "classifier"

  /// The head, with small random weights, the same every time for a seed.
  ///
  /// - Parameter id: of its weight; that of its bias is the next
  func head(width: Int, id: ParameterID) -> ClassificationHead {
    let bias = Vector(id: id + 1, values: FloatStore([Float](repeating: 0, count: labels)))
    let weight = Matrix(Self.values(labels * width, stream: labels, seed: seed), rows: labels, columns: width)
    return head(Linear(name: Self.name, id: id, matrix: weight, bias: bias, isConv1D: false))
  }

  /// Small random numbers.
  static func values(_ count: Int, stream: Int, seed: Int) -> [Float] {
    let random = CountedRandom(seed: UInt64(bitPattern: Int64(seed)), stream: UInt64(stream))
    return (0..<count).map { Float(0.02 * random.normal(UInt64($0))) }
  }

  /// The head whose one layer is `output`.
  func head(_ output: Linear) -> ClassificationHead {
    let token = ClassificationHead.Token(rawValue: pooling.rawValue) ?? .mean
    return ClassificationHead(
      token: token, dense: [], output: output, problem: hasManyLabels ? .manyLabels : labels == 1 ? .regression : .oneLabel)
  }

  /// The configuration `config` with transformers' class for this head.
  func configuration(_ config: JSON) -> JSON {
    switch pooling {
    case .each: config.forTask("TOKEN_CLS", labels: labels, names: names) ?? config
    case .span: config.forTask("QUESTION_ANS", labels: labels) ?? config
    case .model, .first, .last, .mean: config.forTask("SEQ_CLS", labels: labels, names: names, problem: problem) ?? config
    }
  }

  /// Whether a class of transformers has it.
  var isTransformers: Bool { [.model, .each, .span].contains(pooling) }

  /// `problem_type`.
  private var problem: String {
    hasManyLabels ? "multi_label_classification" : labels == 1 ? "regression" : "single_label_classification"
  }
}
