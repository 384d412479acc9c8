import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// A model's pass forth and back: the loss of a batch, and the gradients of what is trained.
///
/// Layers are kept as their inputs only and computed once more on the way back (`checkpointing`), or with all they left.
package final class TrainingPass {
  let model: Model
  package let trained: Trained
  let engine: Engine
  let shape: TransformerShape
  /// Whether only the inputs of layers are kept.
  package var checkpointing: Bool
  let rotary: RotaryTable?
  var linear: LinearPass
  package let clock = StepClock()
  let headSaved = LinearPass.Saved()
  let scratch = Scratch()
  var tapes: [LayerTape] = []
  var inputs: [FloatStore] = []
  /// The lowest layer with anything trained in it or below it.
  let lowest: Int
  let trainsEmbeddings: Bool
  /// Sums of embeddings, where a norm follows them.
  var embedded = FloatStore(count: 0)

  typealias Floats = UnsafeMutablePointer<Float>

  enum Slot {
    static let hidden = 0, gradient = 1, inner = 2, wide = 3, half = 4, scores = 5, rows = 6, rowGradient = 7, value = 8,
      low = 9, lowGradient = 10
  }

  package init(_ model: Model, _ trained: Trained, checkpointing: Bool = true) {
    self.model = model
    self.trained = trained
    self.checkpointing = checkpointing
    shape = model.transformer.shape
    engine = model.transformer.engine
    rotary = shape.rotary.map { RotaryTable($0) }
    linear = LinearPass(engine: engine, trained: trained, scratch: scratch, lengths: RowLengths(), clock: clock)
    let layers = model.transformer.weights.layers
    let isTrained = layers.map { Self.isTrained($0, trained) }
    let weights = model.transformer.weights
    trainsEmbeddings =
      [weights.tokens, weights.positions, weights.tokenTypes].contains { $0.map { trained.isTrained($0) } ?? false }
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
  package var dropout: Dropout? {
    get { linear.dropout }
    set { linear.dropout = newValue }
  }

  func floats(_ slot: Int, _ count: Int) -> Floats { scratch.floatStart(slot, count) }

  /// Rows split for work on `width` numbers each. No sum goes over rows here: pieces may lie as they like.
  func eachRow(_ rows: Int, _ width: Int, _ body: (Range<Int>) -> Void) {
    engine.team.split(rows, grain: max(1, (1 << 14) / max(width, 1))) { part, _ in body(part) }
  }

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

  func values(_ vector: Vector) -> UnsafePointer<Float> {
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
  func layer(_ index: Int, _ runs: [TokenRun], _ rows: Int, _ tape: LayerTape, _ out: Floats) {
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
    clock.measure(.attention) {
      withExtendedLifetime(runs) { shape.attention(index).run(sequences(index, runs, tape), engine.team) }
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

  func add(_ x: UnsafePointer<Float>, to y: Floats, _ rows: Int) {
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
  func rotate(_ runs: [TokenRun], _ queryKeyValue: Floats, forward: Bool) {
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

  func sequences(_ index: Int, _ runs: [TokenRun], _ tape: LayerTape) -> [Attention.Sequence] {
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
}
