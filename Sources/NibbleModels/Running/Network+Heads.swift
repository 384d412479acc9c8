import NibbleCompute
import NibbleCore

/// Memory of heads, beside what passes use.
enum HeadSlot {
  static let input = 100, rows = 101, scores = 102, pooled = 103, inputGradient = 104, bounded = 105, spans = 106, sums = 107, active = 108,
    normed = 109, transformGradient = 110
}

/// Heads on the states of any network: forward, and the way back beside it.
extension Network {
  private typealias Floats = UnsafeMutablePointer<Float>

  // MARK: The vocabulary

  /// Scores of the vocabulary for some rows of `hidden`, [rows, vocabulary].
  ///
  /// - Parameter rows: in ascending order
  /// - Throws: `.quality` if one is not finite, `.usage` for models without a language head
  package func logits(
    _ hidden: UnsafePointer<Float>, rows: [Int], of batch: Batch, tape: Tape? = nil
  ) throws -> UnsafePointer<Float> {
    if case .masked = head {
      throw NibbleError.usage("the model fills masks in a text and cannot continue one")
    }
    guard case .language(let head) = head else {
      throw NibbleError.usage("the model has no language head: it cannot score or generate text")
    }
    return try scores(hidden, RowHead(head), rows: rows, of: batch, tape: tape)
  }

  /// What a head gives for some rows of `hidden`, [rows, outputs].
  ///
  /// - Parameters:
  ///   - head: the network's `Head.scorer`
  ///   - rows: in ascending order
  /// - Throws: `.quality` if one is not finite
  package func scores(
    _ hidden: UnsafePointer<Float>, _ head: RowHead, rows: [Int], of batch: Batch, tape: Tape? = nil
  ) throws -> UnsafePointer<Float> {
    let x = floats(HeadSlot.input, rows.count * width)
    for (index, row) in rows.enumerated() { (x + index * width).update(from: hidden + row * width, count: width) }
    let found = floats(HeadSlot.scores, rows.count * head.outputs)
    let layers = operations(chosen(rows, of: batch), batch.adapters, tape)
    layers.linear([head.output], transformed(x, head, layers, rows.count, tape), rows: 0..<rows.count, found, tape?.head)
    change(found, rows.count * head.outputs, isKept: tape != nil)
    guard LayerKernels.allFinite(found, count: rows.count * head.outputs) else {
      throw NibbleError.quality("the output head gives NaN or infinite scores")
    }
    return UnsafePointer(found)
  }

  /// - Parameter isKept: whether `changeBack` follows
  private func change(_ scores: Floats, _ count: Int, isKept: Bool) {
    let change = logitChange
    guard !change.isNone else { return }
    let bounded = isKept && change.cap != nil ? floats(HeadSlot.bounded, count) : nil
    engine.team.split(count, grain: 1 << 14) { part, _ in
      let own = scores + part.lowerBound
      if change.divisor != 1 { LayerKernels.scale(own, by: 1 / change.divisor, count: part.count) }
      guard let cap = change.cap else { return }
      LayerKernels.scale(own, by: 1 / cap, count: part.count)
      LayerKernels.activate(.tanh, own, count: part.count, own)
      if let bounded { (bounded + part.lowerBound).update(from: own, count: part.count) }
      LayerKernels.scale(own, by: cap, count: part.count)
    }
  }

  /// The gradient of the latest scores becomes that of what the head gave: with t = tanh, (1 − t²) / divisor of it.
  private func changeBack(_ gradient: Floats, _ count: Int) {
    let change = logitChange
    guard !change.isNone else { return }
    let bounded = change.cap == nil ? nil : floats(HeadSlot.bounded, count)
    engine.team.split(count, grain: 1 << 14) { part, _ in
      let own = gradient + part.lowerBound
      if let bounded { LayerKernels.tanhBack(own, bounded + part.lowerBound, count: part.count) }
      if change.divisor != 1 { LayerKernels.scale(own, by: 1 / change.divisor, count: part.count) }
    }
  }

  /// From the gradient of the latest `scores` to that of the states, which it is added to.
  ///
  /// - Parameter scores: spoiled
  package func scoresBack(
    _ scores: UnsafeMutablePointer<Float>, _ head: RowHead, rows: [Int], of batch: Batch, to gradient: UnsafeMutablePointer<Float>, tape: Tape,
    _ gradients: Gradients
  ) {
    changeBack(scores, rows.count * head.outputs)
    // What `scores` gathered, and made of it, is still there.
    let x = floats(HeadSlot.input, rows.count * width), inner = rows.count * head.output.inputs
    let layers = operations(chosen(rows, of: batch), batch.adapters, tape)
    let taken = head.transform == nil ? x : floats(HeadSlot.normed, inner), own = floats(HeadSlot.inputGradient, inner)
    layers.linearBack([head.output], taken, rows: rows.count, scores, dx: own, tape.head, gradients)
    let dx = transformedBack(own, x, head, layers, rows.count, tape, gradients)
    for (index, row) in rows.enumerated() { LayerKernels.add(dx + index * width, count: width, to: gradient + row * width) }
  }

  /// What a head scores: rows of states, or what its transform makes of them.
  func transformed(_ x: UnsafePointer<Float>, _ head: RowHead, _ layers: Layers, _ rows: Int, _ tape: Tape?) -> UnsafePointer<Float> {
    guard let transform = head.transform else { return x }
    let width = transform.dense.outputs, count = rows * width
    let sums = floats(HeadSlot.sums, count), active = floats(HeadSlot.active, count), normed = floats(HeadSlot.normed, count)
    layers.linear([transform.dense], x, rows: 0..<rows, sums, tape?.head)
    engine.team.split(rows, grain: layers.grain(width)) { part, _ in
      let first = part.lowerBound * width
      LayerKernels.activate(transform.activation, sums + first, count: part.count * width, active + first)
    }
    layers.norm(transform.norm, active, count: width, normed)
    return UnsafePointer(normed)
  }

  /// From the gradient of what a head scored, which is spoiled, to that of the states.
  private func transformedBack(
    _ gradient: Floats, _ x: UnsafePointer<Float>, _ head: RowHead, _ layers: Layers, _ rows: Int, _ tape: Tape, _ gradients: Gradients
  ) -> Floats {
    guard let transform = head.transform else { return gradient }
    let count = rows * transform.dense.outputs, dx = floats(HeadSlot.transformGradient, rows * width)
    layers.normBack(transform.norm, gradient, floats(HeadSlot.active, count), count: transform.dense.outputs, rows: rows, gradients)
    LayerKernels.activateBack(transform.activation, gradient, floats(HeadSlot.sums, count), count: count, gradient)
    layers.linearBack([transform.dense], x, rows: rows, gradient, dx: dx, tape.head, gradients)
    return dx
  }

  /// How many rows of each input are among those chosen.
  private func chosen(_ rows: [Int], of batch: Batch) -> [Int] {
    var (end, next) = (0, 0)
    return self.rows(batch).map { count in
      end += count
      let first = next
      while next < rows.count, rows[next] < end { next += 1 }
      return next - first
    }
  }

  // MARK: Classes

  /// Scores of the classes, [inputs, labels].
  package func classScores(
    _ hidden: UnsafePointer<Float>, _ head: ClassificationHead, of batch: Batch, tape: Tape? = nil
  ) throws -> UnsafePointer<Float> {
    // After pooling there is one row an input.
    let count = batch.count
    let layers = operations(batch.adapters.map { _ in 1 }, batch.adapters, tape)
    var x = pool(hidden, head.token, batch)
    tape?.dense = []
    func next(_ layer: Linear, slot: Int) -> Floats {
      let kept = tape.map { _ in DenseTape(input: FloatStore(Array(UnsafeBufferPointer(start: x, count: count * layer.inputs)))) }
      let y = floats(slot, count * layer.outputs)
      layers.linear([layer], x, rows: 0..<count, y, kept?.linear)
      if var kept {
        kept.sums = FloatStore(Array(UnsafeBufferPointer(start: y, count: count * layer.outputs)))
        tape?.dense.append(kept)
      }
      return y
    }
    for layer in head.dense {
      let sums = next(layer, slot: HeadSlot.rows)
      let y = floats(HeadSlot.input, count * layer.outputs)
      LayerKernels.activate(head.activation, sums, count: count * layer.outputs, y)
      x = UnsafePointer(y)
    }
    if let norm = head.norm {
      tape?.beforeNorm = FloatStore(Array(UnsafeBufferPointer(start: x, count: count * head.output.inputs)))
      let y = floats(HeadSlot.input, count * head.output.inputs)
      layers.norm(norm, x, count: head.output.inputs, y)
      x = UnsafePointer(y)
    }
    let scores = next(head.output, slot: HeadSlot.scores)
    if let second = head.second {
      x = pool(hidden, .second, batch)
      let others = next(second, slot: HeadSlot.rows)
      LayerKernels.add(others, scaledBy: 1, count: count * second.outputs, to: scores)
      LayerKernels.scale(scores, by: 0.5, count: count * second.outputs)
    }
    guard LayerKernels.allFinite(scores, count: count * head.output.outputs) else {
      throw NibbleError.quality("the classification head gives NaN or infinite scores")
    }
    return UnsafePointer(scores)
  }

  /// What a classification head looks at, one row an input.
  private func pool(_ hidden: UnsafePointer<Float>, _ token: ClassificationHead.Token, _ batch: Batch) -> UnsafePointer<Float> {
    let pooled = floats(HeadSlot.pooled, batch.count * width)
    pooled.update(repeating: 0, count: batch.count * width)
    var start = 0
    for (index, (count, looks)) in zip(rows(batch), self.pooled(batch, token)).enumerated() {
      for (row, weight) in looks {
        LayerKernels.add(hidden + (start + row) * width, scaledBy: weight, count: width, to: pooled + index * width)
      }
      start += count
    }
    return UnsafePointer(pooled)
  }

  /// From the gradient of the latest `classScores` to that of the states, which it is added to.
  ///
  /// - Parameter scores: spoiled
  package func classScoresBack(
    _ scores: UnsafeMutablePointer<Float>, _ head: ClassificationHead, of batch: Batch, to gradient: UnsafeMutablePointer<Float>,
    tape: Tape, _ gradients: Gradients
  ) {
    let count = batch.count
    let layers = operations(batch.adapters.map { _ in 1 }, batch.adapters, tape)
    var dy = scores
    var dx = FloatStore(count: 0)
    if let second = head.second, let own = tape.dense.last {
      LayerKernels.scale(scores, by: 0.5, count: count * second.outputs)
      let (copy, next) = (FloatStore(Array(UnsafeBufferPointer(start: scores, count: count * second.outputs))), FloatStore(count: count * second.inputs))
      layers.linearBack([second], own.input.start, rows: count, copy.start, dx: next.start, own.linear, gradients)
      add(next, .second, batch, to: gradient)
    }
    for (index, layer) in (head.dense + [head.output]).enumerated().reversed() {
      let own = tape.dense[index]
      let next = FloatStore(count: count * layer.inputs)
      layers.linearBack([layer], own.input.start, rows: count, dy, dx: next.start, own.linear, gradients)
      if let norm = head.norm, index == head.dense.count {
        layers.normBack(norm, next.start, tape.beforeNorm.start, count: layer.inputs, rows: count, gradients)
      }
      if index > 0 {
        LayerKernels.activateBack(
          head.activation, next.start, tape.dense[index - 1].sums.start, count: next.count, next.start)
      }
      (dx, dy) = (next, next.start)
    }
    add(dx, head.token, batch, to: gradient)
  }

  /// Adds the gradient of what a head looked at to that of the states.
  private func add(_ own: FloatStore, _ token: ClassificationHead.Token, _ batch: Batch, to gradient: UnsafeMutablePointer<Float>) {
    var start = 0
    for (index, (rows, looks)) in zip(rows(batch), pooled(batch, token)).enumerated() {
      for (row, weight) in looks {
        LayerKernels.add(own.start + index * width, scaledBy: weight, count: width, to: gradient + (start + row) * width)
      }
      start += rows
    }
  }
}
