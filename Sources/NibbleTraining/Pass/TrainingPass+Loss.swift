import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  /// Rows whose scores of the vocabulary are held at once.
  private static let scoreRows = 256

  /// The mean loss of sequences whose every token is scored, and its gradients, times `scale`.
  ///
  /// - Parameters:
  ///   - labels: one per token, −100 for ignored tokens; a token's scores are judged by the label behind it
  ///   - learns: whether gradients are wanted
  ///   - seen: is given the scores of each token that counts, in order, and its label
  /// - Returns: the loss, and how many tokens it is the mean of; 0 tokens leave all gradients as they are
  package func language(
    _ runs: [TokenRun], labels: [[Int]], scale: Float = 1, learns: Bool = true, seen: ((_ scores: [Float], _ label: Int) -> Void)? = nil
  ) throws -> (loss: Double, tokens: Int) {
    guard let head = network.head.scorer else {
      throw NibbleError.usage("\(path: model.path) has no head that scores tokens to train")
    }
    var targets: [(row: Int, target: Int)] = []
    var start = 0
    for (run, own) in zip(runs, labels) {
      for index in 0..<max(0, own.count - 1) where own[index + 1] != Loss.ignored {
        targets.append((start + index, own[index + 1]))
      }
      start += run.ids.count
    }
    guard !targets.isEmpty else { return (0, 0) }
    let batch = adapted(.tokens(runs))
    let hidden = try network.hidden(batch, tape: tape)
    let gradient = stateGradient(batch)
    let each = scale / Float(targets.count)
    var loss = 0.0
    for first in stride(from: 0, to: targets.count, by: Self.scoreRows) {
      let part = targets[first..<min(first + Self.scoreRows, targets.count)]
      let rows = part.map(\.row)
      // Scores become their gradient where they lie.
      let scores = Floats(mutating: try network.scores(hidden, head, rows: rows, of: batch, tape: tape))
      if let seen {
        for (row, one) in part.enumerated() { seen(Array(UnsafeBufferPointer(start: scores + row * head.outputs, count: head.outputs)), one.target) }
      }
      loss += clock.measure(.loss) { judge(scores, head.outputs, part.map(\.target), each) }
      if learns { network.scoresBack(scores, head, rows: rows, of: batch, to: gradient, tape: tape, gradients) }
    }
    if learns { try network.backward(batch, gradient, tape: tape, gradients) }
    return (loss / Double(targets.count), targets.count)
  }

  /// The sum of the losses of rows of scores; scores become the gradient.
  private func judge(_ scores: Floats, _ count: Int, _ wanted: [Int], _ scale: Float) -> Double {
    let losses = FloatStore(count: wanted.count * 2)
    let smoothing = labelSmoothing
    network.engine.team.run(wanted.count) { index, _ in
      let own = BackwardKernels.crossEntropy(
        scores + index * count, count: count, target: wanted[index], scale: scale, smoothing: smoothing)
      // Two floats hold what one would round.
      losses.start[2 * index] = Float(own)
      losses.start[2 * index + 1] = Float(own - Double(Float(own)))
    }
    return wanted.indices.reduce(0) { $0 + Double(losses.start[2 * $1]) + Double(losses.start[2 * $1 + 1]) }
  }

  /// The mean loss of classes, and its gradients, times `scale`.
  ///
  /// - Parameter targets: of each input one class, or a number a class
  package func classes(_ inputs: Batch, targets: [[Double]], scale: Float = 1, learns: Bool = true) throws -> (
    loss: Double, scores: [Float]
  ) {
    guard case .classification(let head) = network.head else {
      throw NibbleError.usage("\(path: model.path) has no classification head to train")
    }
    let batch = adapted(inputs)
    let count = head.output.outputs
    let hidden = try network.hidden(batch, tape: tape)
    let scores = Floats(mutating: try network.classScores(hidden, head, of: batch, tape: tape))
    let given = Array(UnsafeBufferPointer(start: scores, count: batch.count * count))
    let loss = judge(scores, count, head.problem, targets, scale)
    guard learns else { return (loss, given) }
    let gradient = stateGradient(batch)
    network.classScoresBack(scores, head, of: batch, to: gradient, tape: tape, gradients)
    try network.backward(batch, gradient, tape: tape, gradients)
    return (loss, given)
  }

  /// The mean loss; scores become its gradient.
  private func judge(
    _ scores: Floats, _ count: Int, _ problem: ClassificationHead.Problem, _ targets: [[Double]], _ scale: Float
  ) -> Double {
    var loss = 0.0
    let n = targets.count
    for (row, target) in targets.enumerated() {
      let own = scores + row * count
      switch problem {
      case .oneLabel:
        let one = BackwardKernels.crossEntropy(
          own, count: count, target: Int(target[0]), scale: scale / Float(n), smoothing: labelSmoothing)
        loss += one / Double(n)
      case .manyLabels:
        for j in 0..<count {
          let x = Double(own[j]), y = target[j]
          loss += (max(x, 0) - x * y + log1p(exp(-abs(x)))) / Double(n * count)
          own[j] = scale * Float((1 / (1 + exp(-x)) - y) / Double(n * count))
        }
      case .regression:
        for j in 0..<count {
          let error = Double(own[j]) - target[j]
          loss += error * error / Double(n * count)
          own[j] = scale * Float(2 * error / Double(n * count))
        }
      }
    }
    return loss
  }
}
