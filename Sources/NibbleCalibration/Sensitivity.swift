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
  /// What the float model answers.
  private let answers: FloatStore
  private let scratch = Scratch()
  /// Whether costs are KL divergences of next tokens, not relative squared distances of final states.
  var isLanguage: Bool { Answers(transformer).isLanguage }

  private enum Slot { static let input = 1, inner = 2 }

  /// - Parameter windows: ids as the model takes them
  /// - Throws: what passes throw
  init(_ model: Model, _ windows: [[Int]]) throws {
    transformer = try model.transformer
    runs = windows.map { TokenRun($0) }
    rows = windows.reduce(0) { $0 + $1.count }
    let stream = ResidualStream(transformer, tokens: rows)
    try transformer.embedded(runs, into: stream.at(0))
    for half in Self.halves(of: transformer) {
      try Interrupt.check()
      streams.append(stream.copied)
      Self.step(half, runs, rows, stream, scratch)
    }
    answers = try Answers(transformer).all(stream.at(0), runs)
  }

  /// The halves of all layers in order.
  private static func halves(of transformer: Transformer) -> [HalfLayer] {
    transformer.weights.layers.indices.flatMap { layer in HalfLayer.Part.allCases.map { HalfLayer(transformer, layer: layer, $0) } }
  }

  private static func step(_ half: HalfLayer, _ runs: [TokenRun], _ rows: Int, _ stream: ResidualStream, _ scratch: Scratch) {
    stream.begin(half)
    let taken = stream.taken(by: half, at: 0)
    let input = scratch.floatStart(Slot.input, rows * half.width)
    half.input(taken, rows, into: input)
    let inner = scratch.floatStart(Slot.inner, rows * half.exit.inputs)
    half.inner(runs, input, rows, into: inner, scratch)
    half.finish(stream.at(0), inner, rows, scratch)
  }

  /// The cost of the model with one projection in place of another.
  ///
  /// - Parameters:
  ///   - half: which half layer, counted from the first
  ///   - id: which of its projections
  func cost(half place: Int, _ id: ParameterID, _ matrix: Matrix) throws -> TokenMean {
    var halves = Self.halves(of: transformer)
    // The MLP of a parallel layer takes what the layer took.
    let first = halves[place].takesLayerInput ? place - 1 : place
    halves[place].exchange(id, matrix)
    let stream = ResidualStream(transformer, tokens: rows)
    stream.copy(streams[first].start)
    for half in halves[first...] { Self.step(half, runs, rows, stream, scratch) }
    return try cost(of: transformer, stream)
  }

  /// The cost of another model in place of this one.
  ///
  /// - Parameter other: one that `check` lets through
  /// - Throws: what passes throw
  func cost(of other: Model) throws -> TokenMean {
    let other = try other.transformer
    let stream = ResidualStream(other, tokens: rows)
    try other.embedded(runs, into: stream.at(0))
    for half in Self.halves(of: other) {
      try Interrupt.check()
      Self.step(half, runs, rows, stream, scratch)
    }
    return try cost(of: other, stream)
  }

  /// Refuses models whose answers cannot be compared.
  ///
  /// - Throws: `.badInput`
  static func check(_ a: Model, _ b: Model) throws {
    let (a, b) = (try a.transformer, try b.transformer)
    guard a.shape.width == b.shape.width, a.shape.vocabulary == b.shape.vocabulary else {
      throw NibbleError.badInput(
        "models of \(a.shape.width) and \(b.shape.width) numbers a token, \(a.shape.vocabulary) and \(b.shape.vocabulary) tokens, cannot be compared")
    }
  }

  private func cost(of model: Transformer, _ stream: ResidualStream) throws -> TokenMean {
    Answers(transformer).distance(answers, try Answers(model, isLanguage: isLanguage).all(stream.at(0), runs))
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
