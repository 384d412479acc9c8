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
  /// Of each layer; layers that turn alike share theirs.
  let rotary: [RotaryTable?]
  /// What norms of heads multiply with that multiply with nothing.
  let plainHeadNorm: Norm
  /// Of each layer, what attention over latents multiplies with; nil where caches are to hold keys and values.
  let latentHeads: [LatentHeads]?
  /// While a pass runs, what positions add to scores, by the rows of segments; nil between passes.
  var biasNumbers: [Range<Int>: FloatStore]?

  /// Places in a pass's scratch. Those from 20 to 59 are the adapters', those from 100 to 119 the heads', those from 120 on those of networks around it.
  enum Slot {
    static let x = 0, h = 1, queryKeyValue = 2, attended = 3, up = 4, rows = 5, beside = 6, grouped = 7, inner = 9, wide = 10, half = 11,
      narrow = 8, again = 12
    static let chances = 14, taken = 15, given = 16, takenGradient = 17, shareGradient = 18, chanceGradient = 19
    static let sinkGradient = 13
    static let sharedUp = 70, sharedGiven = 71, sharedShares = 72, sharedGradient = 73
    static let keysNarrow = 74, keyLatents = 75, expanded = 76, queryLatents = 77, queries = 78, latentGradient = 79
    static let absorbed = 80, absorbedGiven = 81, latentKeys = 82, latentValues = 83
    static let source = 60, sourceGradient = 61
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
    plainHeadNorm = Norm(weight: Vector(id: -1, values: FloatStore(Array(repeating: 1, count: shape.headSize))), bias: nil)
    var tables: [RotaryPositions: RotaryTable] = [:]
    for case let positions? in shape.rotary where tables[positions] == nil { tables[positions] = RotaryTable(positions) }
    latentHeads = LatentHeads.all(of: weights, shape)
    rotary = weights.layers.indices.map { shape.rotary.indices.contains($0) ? shape.rotary[$0].flatMap { tables[$0] } : nil }
  }

  package typealias Floats = UnsafeMutablePointer<Float>

  package var width: Int { shape.width }
  package var vocabulary: Int { shape.vocabulary }
  package var contextLength: Int { shape.contextLength }
  package var tokens: Embedding { weights.tokens }
  package var logitChange: LogitChange { shape.logits }
  package func cache() -> KeyValueCache { KeyValueCache(shape, latent: latentHeads.flatMap { $0.first.map { $0.rank + turned } }) }

  package func rows(_ batch: Batch) -> [Int] {
    if case .tokens(let runs) = batch { runs.map(\.ids.count) } else { [] }
  }

  /// What of a tape is its own.
  func part(of tape: Tape) -> TransformerTape { tape.part(of: self) { TransformerTape(checkpointing: tape.checkpointing) } }

  /// Hidden states of every token of every run, [tokens, width], behind the last norm.
  ///
  /// - Parameter tape: gets what the way back needs; runs have no caches then
  /// - Throws: `.badInput` for ids outside the vocabulary and sequences longer than the context, `.quality` naming the layer whose
  ///   output is not finite, `.interrupted`
  package func hidden(_ batch: Batch, tape: Tape? = nil) throws -> UnsafePointer<Float> {
    let runs = try batch.runs
    try check(runs)
    try expandCaches(of: runs)
    try turnCaches(of: runs)
    return try states(batch, runs, tape)
  }

  /// The same, of sequences whose caches have the positions they are to have.
  ///
  /// - Parameters:
  ///   - added: to the embeddings, [tokens, width]
  ///   - source: what cross attention looks at; nil for none, or where caches have it
  func states(
    _ batch: Batch, _ runs: [TokenRun], _ tape: Tape?, adding added: UnsafePointer<Float>? = nil, source: SourceStates? = nil
  ) throws -> UnsafePointer<Float> {
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let width = shape.width
    let layers = operations(batch, tape)
    assert(tape == nil || layers.segments.count <= 1)
    let noise = tape?.noise
    let tape = tape.map(part)
    tape?.prepare(shape, weights, rows: rows, sources: source?.rows ?? 0)
    var x = tape?.inputs[0].start ?? floats(Slot.x, rows * width)
    try embed(runs, layers, rows, x, tape, noise)
    if let added { layers.add(added, to: x, rows: rows, width: width) }
    for run in runs { run.cache?.reserve(run.ids.count) }
    biasNumbers = [:]
    defer { biasNumbers = nil }
    for index in weights.layers.indices {
      try Interrupt.check()
      let out = tape?.inputs[index + 1].start ?? x
      layer(index, runs, layers, rows, from: x, to: out, tape?.layer(index), source)
      guard LayerKernels.allFinite(out, count: rows * width) else {
        let cause = tape == nil ? "; its weights or those of an adapter are broken" : ""
        throw NibbleError.quality("\(layer: index) gives NaN or infinite values\(cause)")
      }
      x = out
    }
    for run in runs { run.cache?.advance(run.ids) }
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
    var attentionInput, queryKeyValue, attended, attentionBranch, middle, mlpInput, up, activated, mlpBranch, end: Floats
  }

  private func places(_ layer: LayerWeights, _ rows: Int, _ x: Floats, _ out: Floats, _ tape: LayerTape?) -> Places {
    if let tape {
      let end = layer.mlpNorms.behind == nil ? out : tape.end.start
      return Places(
        attentionInput: tape.attentionInput.start, queryKeyValue: tape.queryKeyValue.start, attended: tape.attended.start,
        attentionBranch: layer.attentionNorms.after == nil ? tape.middle.start : tape.attentionBranch.start, middle: tape.middle.start,
        mlpInput: tape.mlpInput.start, up: tape.up.start, activated: tape.activated.start,
        mlpBranch: layer.mlpNorms.after == nil ? end : tape.mlpBranch.start, end: end)
    }
    let h = floats(Slot.h, rows * shape.width), up = floats(Slot.up, min(rows, Self.mlpRows) * layer.upWidth)
    let middle = shape.isParallel ? floats(Slot.beside, rows * shape.width) : h
    return Places(
      attentionInput: h, queryKeyValue: floats(Slot.queryKeyValue, rows * shape.attentionWidth),
      attended: floats(Slot.attended, rows * shape.attendedWidth), attentionBranch: middle, middle: middle,
      mlpInput: layer.mlpNorms.before == nil ? x : h, up: up, activated: up, mlpBranch: h, end: h)
  }

  /// Attention and MLP, each behind(x + after(f(before(x)))) with those of the norms that the layer has: the MLP of what attention gave,
  /// or beside it.
  ///
  /// - Parameters:
  ///   - x: spoiled without a tape
  ///   - out: may be x without a tape
  func layer(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, from x: Floats, to out: Floats, _ tape: LayerTape?,
    _ source: SourceStates? = nil
  ) {
    let layer = weights.layers[index]
    let (attention, mlp) = (layer.attentionNorms, layer.mlpNorms)
    let width = shape.width
    let to = places(layer, rows, x, out, tape)
    /// x and what a branch made of it, in a place that nobody needs any longer.
    func sum(_ branch: Floats, _ x: Floats, _ rows: Int) -> Floats {
      guard tape != nil else {
        layers.add(branch, scaledBy: shape.residualScale, to: x, rows: rows, width: width)
        return x
      }
      layers.scale(branch, by: shape.residualScale, rows: rows, width: width)
      layers.add(x, to: branch, rows: rows, width: width)
      return branch
    }
    if let norm = attention.before { layers.norm(norm, shape, x, rows: 0..<rows, to.attentionInput) }
    let input = attention.before == nil ? x : to.attentionInput
    attend(index, runs, layers, rows, layer.queryKeyValue, layer.distances, input, to.queryKeyValue, to.attended, tape)
    layers.linear([layer.attentionOutput], to.attended, rows: 0..<rows, to.attentionBranch, tape?.linear)
    if let norm = attention.after { layers.norm(norm, shape, to.attentionBranch, rows: 0..<rows, to.middle) }
    var middle = shape.isParallel ? x : sum(to.middle, x, rows)
    if let cross = layer.cross { middle = crossAttend(cross, index, runs, layers, rows, middle, source, tape) }
    if let norm = attention.behind { layers.norm(norm, shape, middle, rows: 0..<rows, to.mlpInput) }
    let base = attention.behind == nil ? middle : to.mlpInput
    let mlpInput = mlp.before != nil ? to.mlpInput : shape.isParallel ? input : base
    for start in stride(from: 0, to: rows, by: tape == nil ? Self.mlpRows : max(rows, 1)) {
      let part = start..<(tape == nil ? min(start + Self.mlpRows, rows) : rows)
      let at = start * width
      if let norm = mlp.before { layers.norm(norm, shape, base, rows: part, to.mlpInput) }
      if let experts = layer.experts {
        route(experts, layers, mlpInput + at, rows: part, up: to.up, activated: to.activated, to: to.mlpBranch + at, tape)
      } else {
        feedForward(layer.own, layers, mlpInput + at, rows: part, up: to.up, activated: to.activated, to: to.mlpBranch + at, tape?.linear)
      }
      if let norm = mlp.after { layers.norm(norm, shape, to.mlpBranch, rows: part, to.end) }
      let end = sum(to.end + at, base + at, part.count)
      if shape.isParallel { layers.add(to.middle + at, scaledBy: shape.residualScale, to: end, rows: part.count, width: width) }
      if let norm = mlp.behind { layers.norm(norm, shape, end - at, rows: part, out) }
    }
  }

  /// Queries, keys and values of every run, and what attention makes of them.
  func attend(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ projections: [Linear], _ distances: [Linear], _ input: Floats,
    _ queryKeyValue: Floats, _ attended: Floats, _ tape: LayerTape? = nil
  ) {
    if let latent = weights.layers[index].latent {
      let own = project(index, latent, runs, layers, rows, input, to: queryKeyValue, tape)
      attendLatents(index, latent, own, runs, queryKeyValue, attended)
      if !runs.allSatisfy({ $0.cache?.keepsLatents ?? false }) { expand(latent, own, layers, rows, to: queryKeyValue, tape) }
    } else if shape.isGrouped {
      let grouped = floats(Slot.grouped, rows * shape.attentionWidth)
      layers.linear(projections, input, rows: 0..<rows, grouped, tape?.linear)
      ungroup(grouped, rows, to: queryKeyValue)
    } else {
      layers.linear(projections, input, rows: 0..<rows, queryKeyValue, tape?.linear)
    }
    if weights.layers[index].latent == nil {
      normHeads(index, layers, rows, queryKeyValue, tape)
      rotate(index, runs, queryKeyValue)
      scaleQueries(index, runs, queryKeyValue)
    }
    let sequences = sequences(index, runs, layers, queryKeyValue, attended)
    // Masks live in their runs.
    withExtendedLifetime(runs) {
      if let relative = weights.relative, relative.isUsed {
        attendByDistance(index, relative, sequences, projections, distances, layers)
      } else if let bias = weights.positionBias {
        attendWithBias(index, bias, sequences, layers)
      } else {
        layers.timed(.attention) { shape.attention(index).run(sequences, engine.team) }
      }
    }
  }

  /// Every run's part of attention, but those whose caches keep latents.
  func sequences(
    _ index: Int, _ runs: [TokenRun], _ layers: Layers, _ queryKeyValue: Floats, _ attended: Floats
  ) -> [Attention.Sequence] {
    let stride = shape.attentionWidth, sinks = weights.layers[index].sinks
    var row = 0
    return runs.compactMap { run in
      defer { row += run.ids.count }
      guard !run.ids.isEmpty, run.cache?.keepsLatents != true else { return nil }
      let own = sinks.map { sinks in
        layers.segments.first { $0.rows.contains(row) }?.vector(sinks) ?? UnsafePointer(sinks.values.start)
      }
      return sequence(index, run, queryKeyValue + row * stride, stride, attended + row * shape.attendedWidth, own)
    }
  }

  /// One run's part of attention; its new keys and values go to its cache.
  private func sequence(
    _ index: Int, _ run: TokenRun, _ queryKeyValue: Floats, _ stride: Int, _ attended: Floats, _ sinks: UnsafePointer<Float>?
  ) -> Attention.Sequence {
    let (size, valueSize) = (shape.headSize, shape.valueSize)
    let newKeys = queryKeyValue + shape.queryWidth
    let newValues = newKeys + shape.keyWidth
    var sequence = Attention.Sequence(
      query: queryKeyValue, queryStride: stride, key: newKeys, value: newValues, keyStride: stride, keyHeadStride: size, past: 0,
      new: run.ids.count, window: shape.windows[index], mask: run.mask?.start, output: attended,
      outputStride: shape.attendedWidth)
    sequence.sinks = sinks
    if let chunk = shape.chunk(index) { (sequence.chunk, sequence.chunkStart) = (chunk, run.mask?.leading ?? 0) }
    sequence.valueHeadStride = valueSize
    guard let cache = run.cache else { return sequence }
    let room = cache.layer(index)
    for token in run.ids.indices {
      for head in 0..<shape.keyValueHeads {
        let to = head * room.capacity + cache.count + token
        (room.keys + to * size).update(from: newKeys + token * stride + head * size, count: size)
        (room.values + to * valueSize).update(from: newValues + token * stride + head * valueSize, count: valueSize)
      }
    }
    sequence.key = UnsafePointer(room.keys)
    sequence.value = UnsafePointer(room.values)
    (sequence.keyStride, sequence.keyHeadStride) = (size, room.capacity * size)
    (sequence.valueStride, sequence.valueHeadStride) = (valueSize, room.capacity * valueSize)
    sequence.past = cache.count
    return sequence
  }
}
