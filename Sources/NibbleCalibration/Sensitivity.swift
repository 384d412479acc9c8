import Glibc
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// What another tensor in the place of one costs: the model runs over a text with that tensor alone exchanged, and the divergence of its
/// answers is the cost.
///
/// The states before each half layer are kept, so a run begins where the tensor stands.
final class Sensitivity {
  private let transformer: Transformer
  private let runs: [TokenRun]
  private let rows: Int
  /// The residual stream before each half layer, and behind the last, [rows, width].
  private var streams: [FloatStore] = []
  /// Final states, or scores of the vocabulary, of the float model.
  private var answers = FloatStore(count: 0)
  private let scratch = Scratch()
  /// Whether costs are KL divergences of next tokens, not relative squared distances of final states.
  let isLanguage: Bool
  private var width: Int { transformer.shape.width }

  private enum Slot { static let input = 1, inner = 2, stream = 3 }
  /// Rows whose scores are held at once.
  private static let scoreRows = 64

  /// - Parameter windows: ids as the model takes them
  /// - Throws: what passes throw
  init(_ model: Model, _ windows: [[Int]]) throws {
    transformer = try model.transformer
    runs = windows.map { TokenRun($0) }
    rows = windows.reduce(0) { $0 + $1.count }
    if case .language = transformer.head { isLanguage = true } else { isLanguage = false }
    let first = FloatStore(count: rows * width)
    try transformer.embedded(runs, into: first.start)
    streams.append(first)
    for half in halves {
      try Interrupt.check()
      let next = FloatStore(count: rows * width)
      next.start.update(from: streams[streams.count - 1].start, count: rows * width)
      step(half, next.start)
      streams.append(next)
    }
    answers = try answer(of: transformer, streams[streams.count - 1])
  }

  /// The halves of all layers in order.
  private var halves: [HalfLayer] { Self.halves(of: transformer) }

  private static func halves(of transformer: Transformer) -> [HalfLayer] {
    transformer.weights.layers.indices.flatMap { layer in HalfLayer.Part.allCases.map { HalfLayer(transformer, layer: layer, $0) } }
  }

  private func step(_ half: HalfLayer, _ x: UnsafeMutablePointer<Float>) {
    let input = scratch.floatStart(Slot.input, rows * width)
    half.input(x, rows, into: input)
    let inner = scratch.floatStart(Slot.inner, rows * half.exit.inputs)
    half.inner(runs, input, rows, into: inner, scratch)
    half.finish(x, inner, rows, scratch)
  }

  /// What a model says of the states behind its last layer; spoils nothing but its own memory.
  private func answer(of model: Transformer, _ stream: FloatStore) throws -> FloatStore {
    let states = FloatStore(count: rows * width)
    model.finished(stream.start, rows, into: states.start)
    guard isLanguage else { return states }
    let network: any TokenNetwork = model
    let vocabulary = network.vocabulary, scores = FloatStore(count: rows * vocabulary)
    let batch = Batch.tokens(runs)
    for first in stride(from: 0, to: rows, by: Self.scoreRows) {
      let part = first..<min(first + Self.scoreRows, rows)
      let found = try network.logits(states.start, rows: Array(part), of: batch)
      (scores.start + first * vocabulary).update(from: found, count: part.count * vocabulary)
    }
    return scores
  }

  /// The cost of the model with one projection in place of another.
  ///
  /// - Parameters:
  ///   - half: which half layer, counted from the first
  ///   - id: which of its projections
  func cost(half place: Int, _ id: ParameterID, _ matrix: Matrix) throws -> TokenMean {
    var half = halves[place]
    half.entries = half.entries.map { $0.id == id ? $0.with(matrix) : $0 }
    if half.exit.id == id { half.exit = half.exit.with(matrix) }
    let stream = FloatStore(count: rows * width)
    stream.start.update(from: streams[place].start, count: rows * width)
    step(half, stream.start)
    for next in halves.dropFirst(place + 1) { step(next, stream.start) }
    return try cost(of: transformer, stream)
  }

  /// The cost of another model in place of this one.
  ///
  /// - Parameter other: one that `check` lets through
  /// - Throws: what passes throw
  func cost(of other: Model) throws -> TokenMean {
    let other = try other.transformer
    let stream = FloatStore(count: rows * width)
    try other.embedded(runs, into: stream.start)
    for half in Self.halves(of: other) {
      try Interrupt.check()
      step(half, stream.start)
    }
    return try cost(of: other, stream)
  }

  /// Refuses models whose answers cannot be compared.
  ///
  /// - Throws: `.badInput`
  static func check(_ a: Model, _ b: Model) throws {
    let (a, b) = (try a.transformer, try b.transformer)
    guard a.shape.width == b.shape.width, vocabulary(of: a) == vocabulary(of: b) else {
      throw NibbleError.badInput(
        "models of \(a.shape.width) and \(b.shape.width) numbers a token, \(vocabulary(of: a)) and \(vocabulary(of: b)) tokens, cannot be compared")
    }
  }

  private static func vocabulary(of model: Transformer) -> Int { (model as any TokenNetwork).vocabulary }

  private func cost(of model: Transformer, _ stream: FloatStore) throws -> TokenMean {
    let own = try answer(of: model, stream)
    return isLanguage ? divergence(own) : TokenMean(value: distance(own), standardError: .nan)
  }

  /// KL(float ‖ own), a token.
  private func divergence(_ own: FloatStore) -> TokenMean {
    let vocabulary = Self.vocabulary(of: transformer)
    let sums = FloatStore(count: rows), (p, q) = (Unchecked(answers.start), Unchecked(own.start)), out = Unchecked(sums.start)
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
    return TokenMean(sums.values)
  }

  /// ‖own − float‖² / ‖float‖²; NaN where a number is not finite.
  private func distance(_ own: FloatStore) -> Double {
    var difference = Difference()
    difference.add(answers.start, own.start, count: own.count)
    return difference.nonfinite > 0 ? .nan : difference.squaredDifference / max(difference.squaredA, 1e-30)
  }
}

/// A mean over tokens with its standard error, tokens taken as independent.
public struct TokenMean: Sendable {
  /// The mean.
  public let value: Double
  /// NaN where it is not known.
  public let standardError: Double

  init(value: Double, standardError: Double) { (self.value, self.standardError) = (value, standardError) }

  init(_ values: some Sequence<Float>) {
    var count = 0.0, sum = 0.0, squares = 0.0
    for value in values {
      count += 1
      sum += Double(value)
      squares += Double(value) * Double(value)
    }
    let mean = sum / max(count, 1)
    value = mean
    standardError = count > 1 ? (max(squares / count - mean * mean, 0) / (count - 1)).squareRoot() : .nan
  }
}
