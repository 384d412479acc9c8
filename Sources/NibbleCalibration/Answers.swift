import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant

/// What a model says of the states behind its last layer, and how far two models' answers are apart.
struct Answers {
  /// Rows whose scores are held at once.
  static let scoreRows = 64

  private let transformer: Transformer
  /// Whether answers are scores of the next token, not the final states themselves.
  let isLanguage: Bool

  /// - Parameter isLanguage: nil for what the model's head gives
  init(_ transformer: Transformer, isLanguage: Bool? = nil) {
    self.transformer = transformer
    let hasScores = if case .language = transformer.head { true } else { false }
    self.isLanguage = isLanguage ?? hasScores
  }

  /// Numbers of a row.
  var width: Int { isLanguage ? transformer.shape.vocabulary : transformer.shape.width }

  /// The answers, [tokens of `runs`, width], to the residual stream behind the last layer.
  ///
  /// - Throws: what heads throw
  func all(_ x: UnsafePointer<Float>, _ runs: [TokenRun]) throws -> FloatStore {
    let states = states(x, runs)
    guard isLanguage else { return states }
    let rows = Self.rows(runs), found = FloatStore(count: rows * width)
    for part in Self.parts(rows) { (found.start + part.lowerBound * width).update(from: try scores(states, part, runs), count: part.count * width) }
    return found
  }

  /// How far answers to another stream are apart from those to x: KL(x ‖ other) of next tokens, or of final states the squared error over
  /// the squares.
  ///
  /// - Parameters:
  ///   - x: the residual stream behind the last layer, [tokens of `runs`, width]
  ///   - other: likewise
  /// - Throws: what heads throw
  func distance(_ x: UnsafePointer<Float>, _ other: UnsafePointer<Float>, _ runs: [TokenRun]) throws -> TokenMean {
    let (own, others) = (states(x, runs), states(other, runs))
    guard isLanguage else { return distance(own, others) }
    let rows = Self.rows(runs), sums = FloatStore(count: rows), kept = FloatStore(count: min(rows, Self.scoreRows) * width)
    for part in Self.parts(rows) {
      kept.start.update(from: try scores(own, part, runs), count: part.count * width)
      divergences(kept.start, try scores(others, part, runs), rows: part.count, into: sums.start + part.lowerBound)
    }
    return TokenMean(sums.values)
  }

  private static func rows(_ runs: [TokenRun]) -> Int { runs.reduce(0) { $0 + $1.ids.count } }

  private static func parts(_ rows: Int) -> [Range<Int>] {
    stride(from: 0, to: rows, by: scoreRows).map { $0..<min($0 + scoreRows, rows) }
  }

  private func states(_ x: UnsafePointer<Float>, _ runs: [TokenRun]) -> FloatStore {
    let rows = Self.rows(runs), states = FloatStore(count: rows * transformer.shape.width)
    transformer.finished(x, rows, into: states.start)
    return states
  }

  /// Scores of the vocabulary, which hold until the next.
  private func scores(_ states: FloatStore, _ rows: Range<Int>, _ runs: [TokenRun]) throws -> UnsafePointer<Float> {
    let network: any TokenNetwork = transformer
    return try network.logits(states.start, rows: Array(rows), of: .tokens(runs))
  }

  /// The same of answers, [rows, width].
  func distance(_ answers: FloatStore, _ others: FloatStore) -> TokenMean {
    guard isLanguage else {
      var difference = Difference()
      difference.add(answers.start, others.start, count: others.count)
      let distance = difference.nonfinite > 0 ? .nan : difference.squaredDifference / max(difference.squaredA, 1e-30)
      return TokenMean(value: distance, standardError: .nan)
    }
    let sums = FloatStore(count: answers.count / max(width, 1))
    divergences(answers.start, others.start, rows: sums.count, into: sums.start)
    return TokenMean(sums.values)
  }

  /// KL(p ‖ q) of each row of scores.
  private func divergences(
    _ p: UnsafePointer<Float>, _ q: UnsafePointer<Float>, rows: Int, into out: UnsafeMutablePointer<Float>
  ) {
    let vocabulary = width, (p, q, out) = (Unchecked(p), Unchecked(q), Unchecked(out))
    transformer.engine.team.split(rows, grain: 8) { part, _ in
      for row in part {
        let (p, q) = (p.value + row * vocabulary, q.value + row * vocabulary)
        let difference = LayerKernels.logSumExp(p, count: vocabulary)
        let other = LayerKernels.logSumExp(q, count: vocabulary)
        var sum = 0.0
        for index in 0..<vocabulary {
          let log = Double(p[index]) - difference
          // e^-30 of probability adds nothing that counts here; NaN does.
          if !(log <= -30) { sum += Double(expf(Float(log))) * (log - (Double(q[index]) - other)) }
        }
        out.value[row] = Float(max(sum, 0))
      }
    }
  }
}
