import NibbleCompute
import NibbleCore

/// Heads that mark a span: an answer's first token and its last.
extension Network {
  /// For every row of states the score that an answer begins there and that it ends there, [rows, 2].
  ///
  /// - Throws: `.quality` if one is not finite
  package func spanScores(_ hidden: UnsafePointer<Float>, _ head: RowHead, of batch: Batch) throws -> UnsafePointer<Float> {
    let rows = rows(batch)
    let count = rows.reduce(0, +)
    let scores = floats(HeadSlot.spans, count * head.outputs)
    let layers = operations(rows, batch.adapters, nil)
    layers.linear([head.output], transformed(hidden, head, layers, count, nil), rows: 0..<count, scores, nil)
    guard LayerKernels.allFinite(scores, count: count * head.outputs) else {
      throw NibbleError.quality("the head for spans gives NaN or infinite scores")
    }
    return UnsafePointer(scores)
  }
}

extension Model {
  /// Whether its head marks answers in a text.
  public var marksSpans: Bool { if case .spans = head { true } else { false } }
}
