import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// A model's pass forth and back: the loss of a batch, and the gradients of what is trained.
///
/// Layers are kept as their inputs only and computed once more on the way back (`checkpointing`), or with all they left.
package final class TrainingPass {
  let model: Model
  let trained: Trained
  let engine: Engine
  let shape: TransformerShape
  /// Whether only the inputs of layers are kept.
  package var checkpointing: Bool
  private let rotary: RotaryTable?
  var linear: LinearPass
  let headSaved = LinearPass.Saved()
  private let scratch = Scratch()
  private var tapes: [LayerTape] = []
  private var inputs: [FloatStore] = []
  /// The lowest layer with anything trained in it or below it.
  private let lowest: Int
  let trainsEmbeddings: Bool
  /// Sums of embeddings, where a norm follows them.
  var embedded = FloatStore(count: 0)

  typealias Floats = UnsafeMutablePointer<Float>

  enum Slot {
    static let hidden = 0, gradient = 1, inner = 2, wide = 3, half = 4, scores = 5, rows = 6, rowGradient = 7, value = 8
  }

  package init(_ model: Model, _ trained: Trained, checkpointing: Bool = true) {
    self.model = model
    self.trained = trained
    self.checkpointing = checkpointing
    shape = model.transformer.shape
    engine = model.transformer.engine
    rotary = shape.rotary.map { RotaryTable($0) }
    linear = LinearPass(engine: engine, trained: trained, scratch: scratch, lengths: RowLengths())
    let layers = model.transformer.weights.layers
    let isTrained = layers.map { Self.isTrained($0, trained) }
    let weights = model.transformer.weights
    trainsEmbeddings =
      [weights.tokens, weights.positions, weights.tokenTypes].contains { $0.map { trained.matrices[$0.id] != nil } ?? false }
      || [weights.embeddingNorm].contains { norm in
        norm.map { ([$0.weight.id] + ($0.bias.map { [$0.id] } ?? [])).contains { trained.vectors[$0] != nil } } ?? false
      }
    lowest = trainsEmbeddings ? 0 : isTrained.firstIndex(of: true) ?? layers.count
  }

  private static func isTrained(_ layer: LayerWeights, _ trained: Trained) -> Bool {
    let norms = [layer.attentionNorm, layer.mlpNorm].flatMap { [$0.weight.id] + ($0.bias.map { [$0.id] } ?? []) }
    return (layer.queryKeyValue + [layer.attentionOutput] + layer.up + [layer.down]).contains { trained.isTrained($0) }
      || norms.contains { trained.vectors[$0] != nil }
  }

  /// What is dropped in the next pass; nil for nothing.
  var dropout: Dropout? {
    get { linear.dropout }
    set { linear.dropout = newValue }
  }

  func floats(_ slot: Int, _ count: Int) -> Floats { scratch.floatStart(slot, count) }

  /// Rows split for work on `width` numbers each; pieces do not depend on the number of threads where sums are made.
  private func eachRow(_ rows: Int, _ width: Int, _ body: (Range<Int>) -> Void) {
    engine.team.split(rows, grain: max(1, (1 << 14) / max(width, 1))) { part, _ in body(part) }
  }

  // MARK: Forth

  /// Hidden states behind the last norm, [rows, width].
  func forward(_ runs: [TokenRun]) throws -> UnsafePointer<Float> {
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let width = shape.width
    let layers = model.transformer.weights.layers
    prepare(rows)
    try embed(runs, rows, inputs[0].start)
    for index in layers.indices {
      try Interrupt.check()
      let tape = tapes[checkpointing ? 0 : index]
      layer(index, runs, rows, tape, inputs[index + 1].start)
      guard LayerKernels.allFinite(inputs[index + 1].start, count: rows * width) else {
        throw NibbleError.quality("layer \(index) gives NaN or infinite values")
      }
    }
    let last = inputs[layers.count].start
    guard let norm = model.transformer.weights.finalNorm else { return UnsafePointer(last) }
    let hidden = floats(Slot.hidden, rows * width)
    self.norm(norm, last, rows, hidden)
    return UnsafePointer(hidden)
  }

  private func prepare(_ rows: Int) {
    let layers = model.transformer.weights.layers
    let count = checkpointing ? 1 : layers.count
    if tapes.count < count || !tapes[0].holds(rows) {
      tapes = layers.prefix(max(count, 1)).map { LayerTape(shape, $0, rows: rows) }
    }
    if inputs.isEmpty || inputs[0].count < rows * shape.width {
      inputs = (0...layers.count).map { _ in FloatStore(count: rows * shape.width) }
    }
  }

  private func values(_ vector: Vector) -> UnsafePointer<Float> {
    UnsafePointer((trained.vectors[vector.id]?.values ?? vector.values).start)
  }

  func norm(_ norm: Norm, _ x: UnsafePointer<Float>, _ rows: Int, _ out: Floats) {
    let (width, shape) = (shape.width, shape)
    let weight = values(norm.weight), bias = norm.bias.map(values)
    eachRow(rows, width) { part in
      for row in part {
        let at = row * width
        if shape.isRMSNorm {
          LayerKernels.rmsNorm(x + at, weight: weight, count: width, epsilon: shape.epsilon, out + at)
        } else {
          LayerKernels.layerNorm(x + at, weight: weight, bias: bias, count: width, epsilon: shape.epsilon, out + at)
        }
      }
    }
  }

  /// One layer, leaving on `tape` what its way back needs.
  private func layer(_ index: Int, _ runs: [TokenRun], _ rows: Int, _ tape: LayerTape, _ out: Floats) {
    let weights = model.transformer.weights.layers[index]
    let x = UnsafePointer(inputs[index].start)
    let width = shape.width
    if shape.normsFirst {
      norm(weights.attentionNorm, x, rows, tape.attentionInput.start)
    } else {
      tape.attentionInput.start.update(from: x, count: rows * width)
    }
    linear.forward(weights.queryKeyValue, tape.attentionInput.start, rows: rows, tape.queryKeyValue.start, tape.linear)
    rotate(runs, tape.queryKeyValue.start, forward: true)
    withExtendedLifetime(runs) {
      shape.attention.run(sequences(index, runs, tape), engine.team)
    }
    linear.forward([weights.attentionOutput], tape.attended.start, rows: rows, tape.middle.start, tape.linear)
    add(x, to: tape.middle.start, rows)
    if shape.normsFirst {
      norm(weights.mlpNorm, tape.middle.start, rows, tape.mlpInput.start)
    } else {
      norm(weights.attentionNorm, tape.middle.start, rows, tape.mlpInput.start)
    }
    linear.forward(weights.up, tape.mlpInput.start, rows: rows, tape.up.start, tape.linear)
    activate(tape, rows, weights.down.inputs)
    let end = shape.normsFirst ? out : tape.end.start
    linear.forward([weights.down], tape.activated.start, rows: rows, end, tape.linear)
    add(shape.normsFirst ? tape.middle.start : tape.mlpInput.start, to: end, rows)
    if !shape.normsFirst { norm(weights.mlpNorm, tape.end.start, rows, out) }
  }

  private func add(_ x: UnsafePointer<Float>, to y: Floats, _ rows: Int) {
    let width = shape.width
    eachRow(rows, width) { part in
      LayerKernels.add(x + part.lowerBound * width, count: part.count * width, to: y + part.lowerBound * width)
    }
  }

  private func activate(_ tape: LayerTape, _ rows: Int, _ inner: Int) {
    let (shape, up, out) = (shape, tape.up.start, tape.activated.start)
    eachRow(rows, inner) { part in
      for row in part {
        if shape.isGated {
          let gate = up + row * 2 * inner
          LayerKernels.activate(shape.activation, gate: gate, times: gate + inner, count: inner, out + row * inner)
        } else {
          LayerKernels.activate(shape.activation, up + row * inner, count: inner, out + row * inner)
        }
      }
    }
  }

  /// Turns queries and keys to their positions, or gradients back.
  private func rotate(_ runs: [TokenRun], _ queryKeyValue: Floats, forward: Bool) {
    guard let rotary else { return }
    rotary.reach(runs.map(\.ids.count).max() ?? 0)
    let half = shape.headSize / 2
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    let positions = runs.flatMap { Array($0.ids.indices) }
    let (shape, cosines, sines) = (shape, rotary.cosines.start, rotary.sines.start)
    eachRow(positions.count, stride) { part in
      withUnsafeTemporaryAllocation(of: Float.self, capacity: half) { back in
        for row in part {
          var sine = UnsafePointer(sines + positions[row] * half)
          if !forward, let start = back.baseAddress {
            for i in 0..<half { start[i] = -sine[i] }
            sine = UnsafePointer(start)
          }
          for head in 0..<shape.heads + shape.keyValueHeads {
            LayerKernels.rotate(
              queryKeyValue + row * stride + head * shape.headSize, cosines: cosines + positions[row] * half, sines: sine,
              half: half)
          }
        }
      }
    }
  }

  private func sequences(_ index: Int, _ runs: [TokenRun], _ tape: LayerTape) -> [Attention.Sequence] {
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    var row = 0
    return runs.map { run in
      let query = tape.queryKeyValue.start + row * stride
      defer { row += run.ids.count }
      return Attention.Sequence(
        query: query, queryStride: stride, key: query + shape.queryWidth, value: query + shape.queryWidth + shape.keyValueWidth,
        keyStride: stride, keyHeadStride: shape.headSize, past: 0, new: run.ids.count, window: shape.windows[index],
        mask: run.mask?.start, output: tape.attended.start + row * shape.queryWidth, outputStride: shape.queryWidth)
    }
  }

  // MARK: Back

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
    withExtendedLifetime(runs) { shape.attention.backward(pairs, engine.team) }
  }
}
