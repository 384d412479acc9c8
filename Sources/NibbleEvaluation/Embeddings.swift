import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

/// Texts as vectors: what a model's last layer gives, pooled.
public struct Embeddings {
  /// Which of a text's states make its vector.
  public enum Pooling: String, Sendable, CaseIterable {
    case mean, first, last

    var token: ClassificationHead.Token {
      switch self {
      case .mean: .mean
      case .first: .first
      case .last: .last
      }
    }
  }

  private let model: Model
  private let network: any TokenNetwork
  private let pooling: Pooling
  private let adapters: [ActiveAdapter]
  /// Tokens of a pass.
  private static let passRows = 2048

  /// - Throws: `.usage` for models that take no texts
  public init(_ model: Model, _ pooling: Pooling, adapters: [ActiveAdapter] = []) throws {
    network = try model.oneText(for: "vectors of texts")
    (self.model, self.pooling, self.adapters) = (model, pooling, adapters)
  }

  /// The vector of each text.
  ///
  /// - Parameter texts: tokens with the marks around them; what is longer than the context is cut
  /// - Throws: `.badInput` for a text without tokens, and what models throw
  public func vectors(_ texts: [[Int]], progress: (Int, Int) -> Void = { _, _ in }) throws -> [[Float]] {
    guard !texts.contains(where: \.isEmpty) else { throw NibbleError.badInput("a text without tokens has no vector") }
    var vectors: [[Float]] = []
    while vectors.count < texts.count {
      try Interrupt.check()
      var rows = 0
      let fitting = texts[vectors.count...].prefix {
        rows += min($0.count, network.contextLength)
        return rows <= Self.passRows
      }
      let part = fitting.isEmpty ? texts[vectors.count...vectors.count] : fitting
      let batch = Batch.tokens(part.map { TokenRun(Array($0.prefix(network.contextLength)), adapters: adapters) })
      let hidden = try model.naming { try network.hidden(batch, tape: nil) }
      var start = 0
      for (count, weights) in zip(network.rows(batch), network.pooled(batch, pooling.token)) {
        var sum = [Float](repeating: 0, count: network.width)
        for (row, weight) in weights {
          let state = hidden + (start + row) * network.width
          for index in sum.indices { sum[index] += weight * state[index] }
        }
        vectors.append(sum)
        start += count
      }
      progress(vectors.count, texts.count)
    }
    return vectors
  }

  /// The cosine of the angle between two vectors; 0 where one is 0.
  public static func cosine(_ a: [Float], _ b: [Float]) -> Double {
    var (ab, aa, bb) = (0.0, 0.0, 0.0)
    for (x, y) in zip(a, b) {
      ab += Double(x) * Double(y)
      aa += Double(x) * Double(x)
      bb += Double(y) * Double(y)
    }
    let norm = (aa * bb).squareRoot()
    return norm > 0 ? ab / norm : 0
  }
}
