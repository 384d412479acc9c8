import NibbleCompute
import NibbleCore

extension Transformer {
  /// Scores of the vocabulary for some rows of `hidden`, [rows, vocabulary].
  ///
  /// - Throws: `.quality` if one is not finite, `.usage` for models without a language head
  package func logits(
    _ hidden: UnsafePointer<Float>, rows: [Int], of runs: [TokenRun], tape: Tape? = nil
  ) throws -> UnsafePointer<Float> {
    guard case .language(let head) = weights.head else {
      throw NibbleError.usage("the model has no language head: it cannot score or generate text")
    }
    let scores = project(head, hidden, rows: rows, runs, slot: Slot.scores, tape, tape?.head)
    guard LayerKernels.allFinite(scores, count: rows.count * head.outputs) else {
      throw NibbleError.quality("the output head gives NaN or infinite scores")
    }
    return UnsafePointer(scores)
  }

  /// One layer on some rows of a pass, gathered, each with its own run's adapters.
  private func project(
    _ layer: Linear, _ x: UnsafePointer<Float>, rows: [Int], _ runs: [TokenRun], slot: Int, _ tape: Tape?, _ kept: LinearTape?
  ) -> Floats {
    let gathered = floats(Slot.dense, rows.count * layer.inputs)
    for (index, row) in rows.enumerated() {
      (gathered + index * layer.inputs).update(from: x + row * layer.inputs, count: layer.inputs)
    }
    let out = floats(slot, rows.count * layer.outputs)
    operations(chosen(rows, runs), tape).linear([layer], gathered, rows: 0..<rows.count, out, kept)
    return out
  }

  /// Runs as long as what a choice of rows, in ascending order, has of each.
  func chosen(_ rows: [Int], _ runs: [TokenRun]) -> [TokenRun] {
    var choice = runs
    var end = 0
    var next = 0
    for index in choice.indices {
      end += runs[index].ids.count
      let first = next
      while next < rows.count, rows[next] < end { next += 1 }
      choice[index].ids = Array(repeating: 0, count: next - first)
    }
    return choice
  }

  /// Scores of the classes, [runs, labels].
  package func classScores(
    _ hidden: UnsafePointer<Float>, _ head: ClassificationHead, of runs: [TokenRun], tape: Tape? = nil
  ) throws -> UnsafePointer<Float> {
    // After pooling there is one row a run.
    var x = UnsafePointer(floats(Slot.pooled, runs.count * shape.width))
    pool(hidden, head, runs, UnsafeMutablePointer(mutating: x))
    let rows = Array(runs.indices)
    let left = runs.map { TokenRun([0], adapters: $0.adapters) }
    func next(_ layer: Linear, slot: Int) -> Floats {
      let kept = tape.map { _ in DenseTape(input: FloatStore(Array(UnsafeBufferPointer(start: x, count: runs.count * layer.inputs)))) }
      let out = project(layer, x, rows: rows, left, slot: slot, tape, kept?.linear)
      if var kept {
        kept.sums = FloatStore(Array(UnsafeBufferPointer(start: out, count: runs.count * layer.outputs)))
        tape?.dense.append(kept)
      }
      x = UnsafePointer(out)
      return out
    }
    for layer in head.dense {
      let out = next(layer, slot: Slot.rows)
      LayerKernels.activate(.tanh, out, count: runs.count * layer.outputs, out)
    }
    let scores = next(head.output, slot: Slot.scores)
    guard LayerKernels.allFinite(scores, count: runs.count * head.output.outputs) else {
      throw NibbleError.quality("the classification head gives NaN or infinite scores")
    }
    return UnsafePointer(scores)
  }

  /// What a classification head looks at, one row a run.
  private func pool(_ hidden: UnsafePointer<Float>, _ head: ClassificationHead, _ runs: [TokenRun], _ out: Floats) {
    let width = shape.width
    var start = 0
    for (index, run) in runs.enumerated() {
      let to = out + index * width
      to.update(repeating: 0, count: width)
      for (token, weight) in pooled(run, head) {
        LayerKernels.add(hidden + (start + token) * width, scaledBy: weight, count: width, to: to)
      }
      start += run.ids.count
    }
  }

  /// The tokens a classification head looks at, and how much of each.
  package func pooled(_ run: TokenRun, _ head: ClassificationHead) -> [(token: Int, weight: Float)] {
    switch head.token {
    case .first: return [(0, 1)]
    case .last: return [(lastToken(run), 1)]
    case .mean:
      let seen = run.ids.indices.filter { run.mask?.isVisible($0) ?? true }
      return seen.map { ($0, 1 / Float(max(seen.count, 1))) }
    }
  }

  /// The last token that is no padding.
  package func lastToken(_ run: TokenRun) -> Int {
    if let padding = shape.padding, let last = run.ids.lastIndex(where: { $0 != padding }) { return last }
    if let last = run.mask?.last { return last }
    return max(run.ids.count - 1, 0)
  }
}
