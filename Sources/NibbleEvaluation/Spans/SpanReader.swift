import NibbleCore
import NibbleModels

/// Reads windows of questions with a model whose head marks spans.
public struct SpanReader {
  private let model: Model
  private let adapters: [ActiveAdapter]
  /// Tokens of a pass.
  private static let passRows = 2048

  public init(_ model: Model, adapters: [ActiveAdapter] = []) { (self.model, self.adapters) = (model, adapters) }

  /// For each window a score of every token: that the answer begins there, and that it ends there.
  ///
  /// - Throws: `.usage` for a model whose head marks no spans, and what models throw
  public func scores(_ windows: [SpanWindow]) throws -> [(window: SpanWindow, begins: [Float], ends: [Float])] {
    guard case .spans(let head) = model.head else { throw NibbleError.usage("\(path: model.path) has no head that marks an answer") }
    var found: [(window: SpanWindow, begins: [Float], ends: [Float])] = []
    while found.count < windows.count {
      try Interrupt.check()
      var rows = 0
      let fitting = windows[found.count...].prefix {
        rows += $0.ids.count
        return rows <= Self.passRows
      }
      let part = fitting.isEmpty ? windows[found.count...found.count] : fitting
      let batch = Batch.tokens(part.map { TokenRun($0.ids, types: $0.types, adapters: adapters) })
      let scores = try model.naming { try model.network.spanScores(model.network.hidden(batch, tape: nil), head, of: batch) }
      var start = 0
      for window in part {
        let rows = start..<start + window.ids.count
        found.append((window, rows.map { scores[2 * $0] }, rows.map { scores[2 * $0 + 1] }))
        start = rows.upperBound
      }
    }
    return found
  }
}
