import NibbleAdapters
import NibbleCompute
import NibbleCore

/// The network of Llama, GPT-2, BERT and their like: embeddings, layers of attention and an MLP, a last norm.
///
/// There is one pass forward, with or without a tape. With one, every step's numbers get a place of their own there, and
/// `Transformer+Back.swift` takes them back; without, steps share buffers that hold until the next pass.
package final class Transformer: TokenNetwork, @unchecked Sendable {
  package let shape: TransformerShape
  package let weights: TransformerWeights
  package let engine: Engine
  package let exact: Engine
  package let scratch = Scratch()
  package let parts: NetworkParts
  package var head: Head
  let rotary: RotaryTable?

  enum Slot {
    static let x = 0, h = 1, queryKeyValue = 2, attended = 3, up = 4, rows = 5, inner = 9, wide = 10, half = 11, again = 12
  }
  /// Rows whose MLP is computed together where nothing is kept: what bounds the memory of long passes.
  private static let mlpRows = 512

  package init(_ shape: TransformerShape, _ weights: TransformerWeights, _ engine: Engine) {
    self.shape = shape
    self.weights = weights
    self.engine = engine
    exact = Engine(.f32, team: engine.team, variant: engine.variant)
    parts = weights.parts
    head = weights.head
    rotary = shape.rotary.map { RotaryTable($0) }
  }

  package typealias Floats = UnsafeMutablePointer<Float>

  package var width: Int { shape.width }
  package var vocabulary: Int { shape.vocabulary }
  package var contextLength: Int { shape.contextLength }
  package var tokens: Embedding { weights.tokens }
  package func cache() -> KeyValueCache { KeyValueCache(shape) }

  package func rows(_ batch: Batch) -> [Int] {
    if case .tokens(let runs) = batch { runs.map(\.ids.count) } else { [] }
  }

  /// What of a tape is its own.
  func part(of tape: Tape) -> TransformerTape { tape.part { TransformerTape(checkpointing: tape.checkpointing) } }

  /// Hidden states of every token of every run, [tokens, width], behind the last norm.
  ///
  /// - Parameter tape: gets what the way back needs; runs have no caches then
  /// - Throws: `.badInput` for ids outside the vocabulary and sequences longer than the context, `.quality` naming the layer whose
  ///   output is not finite, `.interrupted`
  package func hidden(_ batch: Batch, tape: Tape? = nil) throws -> UnsafePointer<Float> {
    let runs = try batch.runs
    try check(runs)
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let width = shape.width
    let layers = operations(batch, tape)
    assert(tape == nil || layers.segments.count <= 1)
    let noise = tape?.noise
    let tape = tape.map(part)
    tape?.prepare(shape, weights, rows: rows)
    var x = tape?.inputs[0].start ?? floats(Slot.x, rows * width)
    try embed(runs, layers, rows, x, tape, noise)
    for run in runs { run.cache?.reserve(run.ids.count) }
    for index in weights.layers.indices {
      try Interrupt.check()
      let out = tape?.inputs[index + 1].start ?? x
      layer(index, runs, layers, rows, from: x, to: out, tape?.layer(index))
      guard LayerKernels.allFinite(out, count: rows * width) else {
        let cause = tape == nil ? "; its weights or those of an adapter are broken" : ""
        throw NibbleError.quality("\(layer: index) gives NaN or infinite values\(cause)")
      }
      x = out
    }
    for run in runs { run.cache?.advance(run.ids.count) }
    guard let norm = weights.finalNorm else { return UnsafePointer(x) }
    let h = floats(Slot.h, rows * width)
    layers.norm(norm, shape, x, rows: 0..<rows, h)
    return UnsafePointer(h)
  }

  /// Throws for ids outside the vocabulary and sequences longer than the context.
  package func check(_ runs: [TokenRun]) throws {
    for run in runs {
      if let id = run.ids.first(where: { !(0..<shape.vocabulary).contains($0) }) {
        throw NibbleError.badInput("token id \(id) is not in the model's vocabulary of \(shape.vocabulary)")
      }
      let length = (run.cache?.count ?? 0) + run.ids.count
      guard length <= shape.contextLength else {
        throw NibbleError.badInput("a sequence of \(length) tokens is longer than the model's context of \(shape.contextLength)")
      }
    }
  }

  // MARK: Layers

  /// Where the numbers of one layer go, [rows, …] each. Some may be the same place.
  private struct Places {
    var attentionInput, queryKeyValue, attended, middle, mlpInput, up, activated, end: Floats
  }

  private func places(_ layer: LayerWeights, _ rows: Int, _ x: Floats, _ out: Floats, _ tape: LayerTape?) -> Places {
    if let tape {
      return Places(
        attentionInput: tape.attentionInput.start, queryKeyValue: tape.queryKeyValue.start, attended: tape.attended.start,
        middle: tape.middle.start, mlpInput: tape.mlpInput.start, up: tape.up.start, activated: tape.activated.start,
        end: shape.normsFirst ? out : tape.end.start)
    }
    let h = floats(Slot.h, rows * shape.width), up = floats(Slot.up, min(rows, Self.mlpRows) * layer.upWidth)
    return Places(
      attentionInput: h, queryKeyValue: floats(Slot.queryKeyValue, rows * (shape.queryWidth + 2 * shape.keyValueWidth)),
      attended: floats(Slot.attended, rows * shape.queryWidth), middle: h, mlpInput: shape.normsFirst ? h : x, up: up,
      activated: up, end: h)
  }

  /// x + attention(norm(x)), then that + mlp(norm(that)); or norm(x + attention(x)), then norm(that + mlp(that)).
  ///
  /// - Parameters:
  ///   - x: spoiled without a tape
  ///   - out: may be x without a tape
  func layer(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, from x: Floats, to out: Floats, _ tape: LayerTape?
  ) {
    let layer = weights.layers[index]
    let width = shape.width
    let to = places(layer, rows, x, out, tape)
    /// The sum of two, in a place that nobody needs any longer.
    func sum(_ new: Floats, _ old: Floats, _ rows: Int) -> Floats {
      let (term, sum) = tape == nil ? (new, old) : (old, new)
      layers.add(term, to: sum, rows: rows, width: width)
      return sum
    }
    if shape.normsFirst { layers.norm(layer.attentionNorm, shape, x, rows: 0..<rows, to.attentionInput) }
    attend(
      index, runs, layers, rows, layer.queryKeyValue, shape.normsFirst ? to.attentionInput : x, to.queryKeyValue, to.attended,
      tape?.linear)
    layers.linear([layer.attentionOutput], to.attended, rows: 0..<rows, to.middle, tape?.linear)
    let middle = sum(to.middle, x, rows)
    if !shape.normsFirst { layers.norm(layer.attentionNorm, shape, middle, rows: 0..<rows, to.mlpInput) }
    for start in stride(from: 0, to: rows, by: tape == nil ? Self.mlpRows : max(rows, 1)) {
      let part = start..<(tape == nil ? min(start + Self.mlpRows, rows) : rows)
      let at = start * width
      if shape.normsFirst { layers.norm(layer.mlpNorm, shape, middle, rows: part, to.mlpInput) }
      layers.linear(layer.up, to.mlpInput + at, rows: part, to.up, tape?.linear)
      activate(to.up, part.count, inner: layer.down.inputs, to.activated)
      layers.linear([layer.down], to.activated, rows: part, to.end + at, tape?.linear)
      let end = sum(to.end + at, (shape.normsFirst ? middle : to.mlpInput) + at, part.count)
      if !shape.normsFirst { layers.norm(layer.mlpNorm, shape, end - at, rows: part, out) }
    }
  }

  /// Queries, keys and values of every run, and what attention makes of them.
  func attend(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ projections: [Linear], _ input: Floats,
    _ queryKeyValue: Floats, _ attended: Floats, _ kept: LinearTape? = nil
  ) {
    layers.linear(projections, input, rows: 0..<rows, queryKeyValue, kept)
    rotate(runs, queryKeyValue)
    let sequences = sequences(index, runs, queryKeyValue, attended)
    // Masks live in their runs.
    layers.timed(.attention) { withExtendedLifetime(runs) { shape.attention(index).run(sequences, engine.team) } }
  }

  /// Turns queries and keys to their positions, or gradients back.
  func rotate(_ runs: [TokenRun], _ queryKeyValue: Floats, back: Bool = false) {
    guard let rotary else { return }
    rotary.reach(runs.reduce(0) { max($0, ($1.cache?.count ?? 0) + $1.ids.count) })
    let (cosines, sines) = (rotary.cosines.start, rotary.sines.start)
    let half = shape.headSize / 2
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    let positions = runs.flatMap { run in run.ids.indices.map { (run.cache?.count ?? 0) + $0 } }
    engine.team.split(positions.count, grain: 16) { part, _ in
      withUnsafeTemporaryAllocation(of: Float.self, capacity: half) { turned in
        for row in part {
          var sine = UnsafePointer(sines + positions[row] * half)
          if back, let start = turned.baseAddress {
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

  /// Every run's part of attention.
  func sequences(_ index: Int, _ runs: [TokenRun], _ queryKeyValue: Floats, _ attended: Floats) -> [Attention.Sequence] {
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    var row = 0
    return runs.filter { !$0.ids.isEmpty }.map { run in
      defer { row += run.ids.count }
      return sequence(index, run, queryKeyValue + row * stride, stride, attended + row * shape.queryWidth)
    }
  }

  /// One run's part of attention; its new keys and values go to its cache.
  private func sequence(
    _ index: Int, _ run: TokenRun, _ queryKeyValue: Floats, _ stride: Int, _ attended: Floats
  ) -> Attention.Sequence {
    let size = shape.headSize
    let newKeys = queryKeyValue + shape.queryWidth
    let newValues = newKeys + shape.keyValueWidth
    var sequence = Attention.Sequence(
      query: queryKeyValue, queryStride: stride, key: newKeys, value: newValues, keyStride: stride, keyHeadStride: size, past: 0,
      new: run.ids.count, window: shape.windows[index], mask: run.mask?.start, output: attended,
      outputStride: shape.queryWidth)
    guard let cache = run.cache else { return sequence }
    let room = cache.layer(index)
    for token in run.ids.indices {
      for head in 0..<shape.keyValueHeads {
        let to = head * room.headStride + (cache.count + token) * size
        (room.keys + to).update(from: newKeys + token * stride + head * size, count: size)
        (room.values + to).update(from: newValues + token * stride + head * size, count: size)
      }
    }
    sequence.key = UnsafePointer(room.keys)
    sequence.value = UnsafePointer(room.values)
    sequence.keyStride = size
    sequence.keyHeadStride = room.headStride
    sequence.past = cache.count
    return sequence
  }

  /// Rows of `inner` numbers from rows of one or two projections. `out` may be `up`.
  func activate(_ up: Floats, _ rows: Int, inner: Int, _ out: Floats) {
    guard shape.isGated else {
      engine.team.split(rows * inner, grain: 1 << 14) { part, _ in
        LayerKernels.activate(shape.activation, up + part.lowerBound, count: part.count, out + part.lowerBound)
      }
      return
    }
    let isInPlace = out == up
    engine.team.split(rows, grain: max(1, (1 << 13) / inner)) { part, _ in
      for row in part {
        let gate = up + row * 2 * inner
        LayerKernels.activate(shape.activation, gate: gate, times: gate + inner, count: inner, isInPlace ? gate : out + row * inner)
      }
    }
    guard isInPlace else { return }
    // Rows close up: each moves down to where only rows before it were.
    for row in 1..<max(rows, 1) { (up + row * inner).update(from: up + row * 2 * inner, count: inner) }
  }
}
