import Glibc
import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  /// Rows whose scores of the vocabulary are held at once.
  private static let scoreRows = 256

  /// The mean loss of sequences whose tokens are judged by the one behind them, and its gradients, times `scale`.
  ///
  /// - Parameters:
  ///   - labels: one a token, −100 for those that count for nothing
  ///   - learns: whether gradients are wanted
  /// - Returns: the loss, and how many tokens it is the mean of; 0 tokens leave all gradients as they are
  package func language(_ runs: [TokenRun], labels: [[Int]], scale: Float = 1, learns: Bool = true) throws -> (
    loss: Double, tokens: Int
  ) {
    guard case .language(let head) = model.transformer.weights.head else {
      throw NibbleError.usage("\(model.path) has no language head to train")
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
    let width = shape.width
    let hidden = try forward(runs)
    let gradient = floats(Slot.gradient, start * width)
    gradient.update(repeating: 0, count: start * width)
    let each = scale / Float(targets.count)
    var loss = 0.0
    for first in stride(from: 0, to: targets.count, by: Self.scoreRows) {
      let part = targets[first..<min(first + Self.scoreRows, targets.count)]
      let x = floats(Slot.rows, part.count * width), dx = floats(Slot.rowGradient, part.count * width)
      for (index, target) in part.enumerated() { (x + index * width).update(from: hidden + target.row * width, count: width) }
      let scores = floats(Slot.scores, part.count * head.outputs)
      linear.forward([head], x, rows: part.count, scores, headSaved)
      guard LayerKernels.allFinite(scores, count: part.count * head.outputs) else {
        throw NibbleError.quality("the output head gives NaN or infinite scores")
      }
      loss += clock.measure(.loss) { judge(scores, head.outputs, part.map(\.target), each) }
      guard learns else { continue }
      linear.backward([head], x, rows: part.count, scores, dx: dx, headSaved)
      for (index, target) in part.enumerated() {
        LayerKernels.add(dx + index * width, count: width, to: gradient + target.row * width)
      }
    }
    if learns { try backward(runs, gradient) }
    return (loss / Double(targets.count), targets.count)
  }

  /// The sum of the losses of rows of scores; scores become the gradient.
  private func judge(_ scores: Floats, _ count: Int, _ wanted: [Int], _ scale: Float) -> Double {
    let losses = FloatStore(count: wanted.count * 2)
    engine.team.run(wanted.count) { index, _ in
      let own = BackwardKernels.crossEntropy(scores + index * count, count: count, target: wanted[index], scale: scale)
      // Two floats hold what one would round.
      losses.start[2 * index] = Float(own)
      losses.start[2 * index + 1] = Float(own - Double(Float(own)))
    }
    return wanted.indices.reduce(0) { $0 + Double(losses.start[2 * $1]) + Double(losses.start[2 * $1 + 1]) }
  }

  /// The mean loss of classes, and its gradients, times `scale`.
  ///
  /// - Parameter targets: of each sequence one class, or a number a class
  package func classes(_ runs: [TokenRun], targets: [[Double]], scale: Float = 1, learns: Bool = true) throws -> (
    loss: Double, scores: [Float]
  ) {
    guard case .classification(let head) = model.transformer.weights.head else {
      throw NibbleError.usage("\(model.path) has no classification head to train")
    }
    let width = shape.width
    let count = head.output.outputs
    let hidden = try forward(runs)
    let n = runs.count
    var start = 0
    let rows = runs.map { run -> [(row: Int, weight: Float)] in
      defer { start += run.ids.count }
      return model.transformer.pooled(run, head).map { (start + $0.token, $0.weight) }
    }
    var inputs: [FloatStore] = [FloatStore(count: n * width)]
    inputs[0].values.update(repeating: 0)
    for (index, own) in rows.enumerated() {
      for (row, weight) in own {
        LayerKernels.add(hidden + row * width, scaledBy: weight, count: width, to: inputs[0].start + index * width)
      }
    }
    var saved: [LinearPass.Saved] = []
    var sums: [FloatStore] = []
    for layer in head.dense {
      let out = FloatStore(count: n * layer.outputs), own = LinearPass.Saved()
      linear.forward([layer], inputs[inputs.count - 1].start, rows: n, out.start, own)
      let activated = FloatStore(count: n * layer.outputs)
      LayerKernels.activate(.tanh, out.start, count: out.count, activated.start)
      sums.append(out)
      saved.append(own)
      inputs.append(activated)
    }
    let scores = FloatStore(count: n * count), last = LinearPass.Saved()
    linear.forward([head.output], inputs[inputs.count - 1].start, rows: n, scores.start, last)
    guard LayerKernels.allFinite(scores.start, count: scores.count) else {
      throw NibbleError.quality("the classification head gives NaN or infinite scores")
    }
    let given = Array(scores.values)
    let loss = judge(scores.start, count, head.problem, targets, scale)
    guard learns else { return (loss, given) }
    var dy = scores
    var layer = head.output, own = last
    for index in inputs.indices.reversed() {
      let dx = FloatStore(count: n * layer.inputs)
      linear.backward([layer], inputs[index].start, rows: n, dy.start, dx: dx.start, own)
      dy = dx
      guard index > 0 else { break }
      LayerKernels.activateBack(.tanh, dx.start, sums[index - 1].start, count: dx.count, dx.start)
      (layer, own) = (head.dense[index - 1], saved[index - 1])
    }
    let gradient = floats(Slot.gradient, start * width)
    gradient.update(repeating: 0, count: start * width)
    for (index, own) in rows.enumerated() {
      for (row, weight) in own {
        LayerKernels.add(dy.start + index * width, scaledBy: weight, count: width, to: gradient + row * width)
      }
    }
    try backward(runs, gradient)
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
        loss += BackwardKernels.crossEntropy(own, count: count, target: Int(target[0]), scale: scale / Float(n)) / Double(n)
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
