import NibbleCompute
import NibbleCore

/// A classification head for a base that has none: one layer on one token's hidden state, or on the mean of all.
public struct NewHead: Sendable, Equatable {
  /// What of a sequence the head looks at.
  public enum Pooling: String, Sendable, CaseIterable { case first, last, mean }

  /// Classes; 1 for a number that is to be estimated.
  public var labels: Int
  public var pooling: Pooling
  /// Whether a text may have several classes.
  public var hasManyLabels: Bool
  /// What the classes are called; empty where they are numbers.
  public var names: [String]

  public init(labels: Int, pooling: Pooling = .mean, hasManyLabels: Bool = false, names: [String] = []) {
    (self.labels, self.pooling, self.hasManyLabels, self.names) = (labels, pooling, hasManyLabels, names)
  }

  /// The module's path.
  package static let name = "classifier"

  /// The head, with small random weights, the same every time.
  ///
  /// - Parameter id: of its weight; that of its bias is the next
  func head(width: Int, id: ParameterID) -> ClassificationHead {
    let random = CountedRandom(seed: 0, stream: UInt64(labels))
    let weight = (0..<labels * width).map { Float(0.02 * random.normal(UInt64($0))) }
    let bias = Vector(id: id + 1, values: FloatStore([Float](repeating: 0, count: labels)))
    let output = Linear(
      name: Self.name, id: id, matrix: Matrix(weight, rows: labels, columns: width), bias: bias, isConv1D: false)
    let token = ClassificationHead.Token(rawValue: pooling.rawValue) ?? .mean
    return ClassificationHead(
      token: token, dense: [], output: output, problem: hasManyLabels ? .manyLabels : labels == 1 ? .regression : .oneLabel)
  }
}
