import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats

/// Runs a short prompt through a base with its adapters attached and through what they were merged into.
public final class MergedModelCheck: @unchecked Sendable {
  /// How far the two are apart.
  public struct Result: Sendable {
    /// ‖merged − attached‖ / ‖attached‖ over all outputs of the prompt.
    public let difference: Double
    /// The share of positions at which both give the highest score to the same token or class.
    public let agreement: Double
    /// Tokens of the prompt.
    public let tokens: Int
  }

  /// What was found; nil where nothing could be compared.
  public private(set) var result: Result?
  private let adapters: [MergeOptions.Weighted]
  private let threads: Int
  /// Token ids that are as good as any.
  private static let length = 16

  /// Nothing compared yet.
  public init(_ adapters: [MergeOptions.Weighted], threads: Int = availableCores) {
    (self.adapters, self.threads) = (adapters, threads)
  }

  /// Compares with the model at `path`.
  ///
  /// - Parameter base: whose values the adapters were merged onto
  /// - Returns: a warning where the two cannot both be run
  package func run(_ base: Checkpoint, written path: String) throws -> [Warning] {
    do {
      let team = Team(threads: threads)
      let heads = try adapters.compactMap { try NewHead(of: $0.adapter) }
      let before = try Model(base.grown(for: adapters.map(\.adapter)), precision: .f32, team: team, classifier: heads.first)
      guard before.tokenEmbedding != nil else {
        return [.init(.unused, "\(.checkModel): the model takes images; nothing was compared")]
      }
      let attached = try adapters.enumerated().map { index, one in
        ActiveAdapter(try before.attach(one.adapter, name: "\(index)"), weight: Float(one.weight))
      }
      if attached.count > 1 || attached.contains(where: { $0.weight != 1 }),
        attached.contains(where: { $0.adapter.isScaledWhole })
      {
        return [
          .init(
            .unused,
            "\(.checkModel): adapters that replace parameters or scale rows only run one at a time and with weight 1; nothing was compared")
        ]
      }
      let after = try Model(Checkpoint.open(path), precision: .f32, team: team)
      let found = Self.compare(try Self.outputs(before, attached), try Self.outputs(after, []))
      guard found.difference.isFinite else {
        throw NibbleError.quality(
          "\(path: path): \(.checkModel): the outputs of the base with its adapters, or of the merged model, are NaN or infinite")
      }
      result = found
      return []
    } catch let error as NibbleError where error.kind == .badInput || error.kind == .adapterMismatch {
      return [.init(.unused, "\(.checkModel): nothing was compared: \(error.text)")]
    }
  }

  /// The scores of every position, or the classes', or the states: rows of numbers.
  private static func outputs(_ model: Model, _ adapters: [ActiveAdapter]) throws -> [[Float]] {
    let network = try model.tokens(for: "a prompt")
    let length = min(length, network.contextLength)
    // Of a model that reads one text and writes another, half of it is written.
    let types = model.answersPrompts ? (0..<length).map { 2 * $0 / length } : nil
    let batch = Batch.tokens([TokenRun((0..<length).map { (7919 * $0 + 11) % network.vocabulary }, types: types, adapters: adapters)])
    let hidden = try network.hidden(batch, tape: nil)
    func rows(_ start: UnsafePointer<Float>, _ count: Int, _ width: Int) -> [[Float]] {
      (0..<count).map { Array(UnsafeBufferPointer(start: start + $0 * width, count: width)) }
    }
    switch network.head {
    case .language(let head):
      return rows(try network.logits(hidden, rows: Array(0..<length), of: batch), length, head.outputs)
    case .classification(let head):
      return rows(try network.classScores(hidden, head, of: batch), 1, head.output.outputs)
    case .masked(let head), .tokens(let head):
      return rows(try network.scores(hidden, head, rows: Array(0..<length), of: batch), length, head.outputs)
    case .spans(let head):
      let scores = try network.spanScores(hidden, head, of: batch)
      return (0..<head.outputs).map { column in (0..<length).map { scores[$0 * head.outputs + column] } }
    case .none: return rows(hidden, length, network.width)
    }
  }

  private static func compare(_ wanted: [[Float]], _ found: [[Float]]) -> Result {
    var error = 0.0, size = 0.0, agreeing = 0
    func best(_ row: [Float]) -> Int? { row.indices.max { row[$0] < row[$1] } }
    for (x, y) in zip(wanted, found) {
      for (a, b) in zip(x, y) {
        error += Double(a - b) * Double(a - b)
        size += Double(a) * Double(a)
      }
      if best(x) == best(y) { agreeing += 1 }
    }
    return Result(
      difference: size == 0 ? error.squareRoot() : (error / size).squareRoot(),
      agreement: Double(agreeing) / Double(max(wanted.count, 1)), tokens: length)
  }
}
