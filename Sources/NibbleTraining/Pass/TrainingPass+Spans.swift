import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  /// The mean loss of answers marked in texts, and its gradients, times `scale`: of each text the mean of two cross-entropies over all of its tokens, of the
  /// answer's first token and of its last, as transformers' classes for question answering have it.
  ///
  /// - Parameter targets: of each text the places of these two tokens
  package func spans(_ inputs: Batch, targets: [[Double]], scale: Float = 1, learns: Bool = true) throws -> Double {
    guard case .spans(let head) = network.head else {
      throw NibbleError.usage("\(path: model.path) has no head that marks an answer")
    }
    let batch = adapted(inputs)
    let counts = network.rows(batch)
    let rows = Array(0..<counts.reduce(0, +))
    let hidden = try network.hidden(batch, tape: tape)
    let gradient = stateGradient(batch)
    let scores = Floats(mutating: try network.scores(hidden, head, rows: rows, of: batch, tape: tape))
    let loss = clock.measure(.loss) { judge(scores, head.outputs, counts, targets, scale / Float(head.outputs * max(targets.count, 1))) }
    guard learns else { return loss }
    network.scoresBack(scores, head, rows: rows, of: batch, to: gradient, tape: tape, gradients)
    try network.backward(batch, gradient, tape: tape, gradients)
    return loss
  }

  /// The mean loss; scores, [tokens, columns], become its gradient.
  private func judge(_ scores: Floats, _ columns: Int, _ counts: [Int], _ targets: [[Double]], _ scale: Float) -> Double {
    var (loss, first) = (0.0, 0)
    for (count, target) in zip(counts, targets) {
      for column in 0..<columns {
        var own = (0..<count).map { scores[(first + $0) * columns + column] }
        loss += own.withUnsafeMutableBufferPointer { own in
          own.baseAddress.map { BackwardKernels.crossEntropy($0, count: count, target: Int(target[column]), scale: scale) } ?? 0
        }
        for (row, value) in own.enumerated() { scores[(first + row) * columns + column] = value }
      }
      first += count
    }
    return loss / Double(columns * max(targets.count, 1))
  }
}
