import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

extension TrainingPass {
  /// Adds to the gradients of everything trained below the head.
  ///
  /// - Parameter gradient: of the hidden states; spoiled
  func backward(_ runs: [TokenRun], _ gradient: Floats) throws {
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let layers = model.transformer.weights.layers
    if let norm = model.transformer.weights.finalNorm {
      normBackward(norm, gradient, inputs[layers.count].start, rows, gradient)
    }
    for index in layers.indices.reversed() where index >= lowest {
      try Interrupt.check()
      let tape = tapes[checkpointing ? 0 : index]
      // The last layer's own is still there.
      if checkpointing, index != layers.count - 1 { layer(index, runs, rows, tape, floats(Slot.value, rows * shape.width)) }
      back(index, runs, rows, tape, gradient)
      guard LayerKernels.allFinite(gradient, count: rows * shape.width) else {
        throw NibbleError.quality("layer \(index) gives NaN or infinite gradients")
      }
    }
    if lowest == 0 { embedBackward(runs, rows, gradient) }
  }

  func normBackward(_ norm: Norm, _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, _ rows: Int, _ dx: Floats) {
    let (width, shape) = (shape.width, shape)
    let weight = values(norm.weight)
    let dw = trained.vectors[norm.weight.id]?.gradient.start
    let db = norm.bias.flatMap { trained.vectors[$0.id]?.gradient.start }
    func run(_ part: Range<Int>) {
      for row in part {
        let at = row * width
        if shape.isRMSNorm {
          LayerKernels.rmsNormBack(dy + at, x + at, weight: weight, count: width, epsilon: shape.epsilon, dx + at, dw: dw)
        } else {
          LayerKernels.layerNormBack(
            dy + at, x + at, weight: weight, count: width, epsilon: shape.epsilon, dx + at, dw: dw, db: db)
        }
      }
    }
    // Sums over rows are made in order.
    if dw != nil || db != nil { run(0..<rows) } else { eachRow(rows, width, run) }
  }

  /// From the gradient of a layer's output to that of its input, in place.
  private func back(_ index: Int, _ runs: [TokenRun], _ rows: Int, _ tape: LayerTape, _ gradient: Floats) {
    let weights = model.transformer.weights.layers[index]
    let width = shape.width
    let inner = weights.down.inputs
    let upWidth = weights.up.reduce(0) { $0 + $1.outputs }
    let half = floats(Slot.half, rows * width)
    // Behind the MLP.
    if !shape.normsFirst { normBackward(weights.mlpNorm, gradient, tape.end.start, rows, gradient) }
    let dInner = floats(Slot.inner, rows * inner), dUp = floats(Slot.wide, rows * upWidth)
    half.update(from: gradient, count: rows * width)
    linear.backward([weights.down], tape.activated.start, rows: rows, half, dx: dInner, tape.linear)
    activateBackward(tape, rows, inner, dInner, dUp)
    linear.backward(weights.up, tape.mlpInput.start, rows: rows, dUp, dx: half, tape.linear)
    if shape.normsFirst {
      normBackward(weights.mlpNorm, half, tape.middle.start, rows, half)
      add(half, to: gradient, rows)
    } else {
      add(half, to: gradient, rows)
      normBackward(weights.attentionNorm, gradient, tape.middle.start, rows, gradient)
    }
    // Behind attention.
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    let dAttended = floats(Slot.inner, rows * shape.queryWidth), dQueryKeyValue = floats(Slot.wide, rows * stride)
    half.update(from: gradient, count: rows * width)
    linear.backward([weights.attentionOutput], tape.attended.start, rows: rows, half, dx: dAttended, tape.linear)
    attentionBackward(index, runs, tape, dAttended, dQueryKeyValue)
    rotate(runs, dQueryKeyValue, forward: false)
    let isLast = index == lowest && !isTrainedBelow(index)
    linear.backward(
      weights.queryKeyValue, tape.attentionInput.start, rows: rows, dQueryKeyValue, dx: isLast ? nil : half, tape.linear)
    // Norms may be trained though nothing below them is.
    if isLast { return }
    if shape.normsFirst { normBackward(weights.attentionNorm, half, inputs[index].start, rows, half) }
    add(half, to: gradient, rows)
  }

  /// Whether the gradient of a layer's attention input is needed.
  private func isTrainedBelow(_ index: Int) -> Bool {
    let weights = model.transformer.weights
    let norm = weights.layers[index].attentionNorm
    let ids = shape.normsFirst ? [norm.weight.id] + (norm.bias.map { [$0.id] } ?? []) : []
    return ids.contains { trained.vectors[$0] != nil } || trainsEmbeddings
  }

  private func activateBackward(_ tape: LayerTape, _ rows: Int, _ inner: Int, _ dInner: Floats, _ dUp: Floats) {
    let (shape, up) = (shape, tape.up.start)
    engine.team.split(rows, grain: max(1, (1 << 13) / inner)) { part, _ in
      for row in part {
        if shape.isGated {
          let gate = up + row * 2 * inner, to = dUp + row * 2 * inner
          LayerKernels.activateBack(
            shape.activation, dInner + row * inner, gate: gate, times: gate + inner, count: inner, dgate: to, dup: to + inner)
        } else {
          LayerKernels.activateBack(shape.activation, dInner + row * inner, up + row * inner, count: inner, dUp + row * inner)
        }
      }
    }
  }

  private func attentionBackward(
    _ index: Int, _ runs: [TokenRun], _ tape: LayerTape, _ dAttended: Floats, _ dQueryKeyValue: Floats
  ) {
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    var row = 0
    var pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)] = []
    for (run, sequence) in zip(runs, sequences(index, runs, tape)) {
      let to = dQueryKeyValue + row * stride
      pairs.append(
        (
          sequence,
          Attention.Gradient(
            output: dAttended + row * shape.queryWidth, outputStride: shape.queryWidth, query: to, key: to + shape.queryWidth,
            value: to + shape.queryWidth + shape.keyValueWidth, stride: stride)
        ))
      row += run.ids.count
    }
    clock.measure(.attention) { withExtendedLifetime(runs) { shape.attention(index).backward(pairs, engine.team) } }
  }
}
