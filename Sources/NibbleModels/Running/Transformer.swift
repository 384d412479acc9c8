import NibbleAdapters
import NibbleCompute
import NibbleCore

/// A model that computes: its weights in place, and the buffers a pass needs.
///
/// One pass at a time. Results lie in buffers of the transformer and hold until its next pass.
package final class Transformer: @unchecked Sendable {
  package let shape: TransformerShape
  package let weights: TransformerWeights
  package let engine: Engine
  private let rotary: RotaryTable?
  private let scratch = Scratch()

  private enum Slot {
    static let x = 0, h = 1, queryKeyValue = 2, attended = 3, up = 4, rows = 5, dense = 6, scores = 7, pooled = 8
  }
  /// Rows whose MLP is computed together: what bounds the memory of long passes.
  private static let mlpRows = 512

  package init(_ shape: TransformerShape, _ weights: TransformerWeights, _ engine: Engine) {
    self.shape = shape
    self.weights = weights
    self.engine = engine
    rotary = shape.rotary.map { RotaryTable($0) }
  }

  package typealias Floats = UnsafeMutablePointer<Float>

  private func floats(_ slot: Int, _ count: Int) -> Floats { scratch.floatStart(slot, count) }

  /// Hidden states of every token of every run, [tokens, width], behind the last norm.
  ///
  /// - Throws: `.badInput` for ids outside the vocabulary and sequences longer than the context, `.quality` naming the layer whose
  ///   output is not finite, `.interrupted`
  package func hidden(_ runs: [TokenRun]) throws -> UnsafePointer<Float> {
    try check(runs)
    let rows = runs.reduce(0) { $0 + $1.ids.count }
    let width = shape.width
    let x = floats(Slot.x, rows * width)
    let h = floats(Slot.h, rows * width)
    let layers = Layers(engine: engine, segments: Segment.segments(runs), scratch: scratch)
    try embed(runs, layers, x)
    for run in runs { run.cache?.reserve(run.ids.count) }
    for index in weights.layers.indices {
      try Interrupt.check()
      attention(index, runs, layers, rows, x, h)
      mlp(weights.layers[index], layers, rows, x, h)
      guard LayerKernels.allFinite(x, count: rows * width) else {
        throw NibbleError.quality("layer \(index) gives NaN or infinite values; its weights or those of an adapter are broken")
      }
    }
    for run in runs { run.cache?.advance(run.ids.count) }
    guard let norm = weights.finalNorm else { return UnsafePointer(x) }
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

  // MARK: Embeddings

  private func embed(_ runs: [TokenRun], _ layers: Layers, _ x: Floats) throws {
    let width = shape.width
    let tables = try lookups(runs)
    for segment in layers.segments where !segment.rows.isEmpty {
      let start = x + segment.rows.lowerBound * width
      for (number, (table, indices)) in tables.enumerated() {
        let own = Array(indices[segment.rows])
        let matrix = segment.matrix(table.id, table.matrix)
        if number == 0 { matrix.lookUp(own, into: start) } else { addRows(of: matrix, own, to: start) }
        for active in segment.adapters {
          if let term = active.adapter.embeddings[table.id] { add(term, active.weight, own, to: start) }
        }
      }
    }
    if let norm = weights.embeddingNorm { layers.norm(norm, shape, x, rows: 0..<(tables.first?.rows.count ?? 0), x) }
  }

  /// Every table of embeddings, and its row for each token: tokens, then positions and token types.
  private func lookups(_ runs: [TokenRun]) throws -> [(table: Embedding, rows: [Int])] {
    var tables = [(table: weights.tokens, rows: runs.flatMap(\.ids))]
    if let table = weights.positions { tables.append((table, runs.flatMap(positions))) }
    if let table = weights.tokenTypes {
      let types = runs.flatMap { $0.types ?? Array(repeating: 0, count: $0.ids.count) }
      if let bad = types.first(where: { !(0..<table.count).contains($0) }) {
        throw NibbleError.badInput("token type \(bad) is not among the model's \(table.count)")
      }
      tables.append((table, types))
    }
    return tables
  }

  /// Rows of a table of position embeddings. RoBERTa counts tokens that are no padding, and gives padding the row of its id.
  package func positions(_ run: TokenRun) -> [Int] {
    let past = run.cache?.count ?? 0
    guard shape.firstPosition > 0, let padding = shape.padding else { return run.ids.indices.map { past + $0 } }
    var seen = 0
    return run.ids.map { id in
      if id == padding { return padding }
      seen += 1
      return padding + seen
    }
  }

  private func addRows(of table: Matrix, _ indices: [Int], to x: Floats) {
    let count = indices.count * shape.width
    let rows = floats(Slot.rows, count)
    table.lookUp(indices, into: rows)
    LayerKernels.add(rows, scaledBy: 1, count: count, to: x)
  }

  private func add(_ term: EmbeddingTerm, _ weight: Float, _ ids: [Int], to x: Floats) {
    let rank = term.b.inputs
    let width = shape.width
    let rows = floats(Slot.rows, ids.count * (rank + width))
    term.a.lookUp(ids, into: rows)
    for index in 0..<ids.count * rank { rows[index] *= term.scale * weight }
    let sums = rows + ids.count * rank
    engine.multiply(rows, rows: ids.count, stride: rank, [.init(term.b, sums, stride: width)])
    LayerKernels.add(sums, scaledBy: 1, count: ids.count * width, to: x)
    if let scale = term.outputScale?.start {
      for row in 0..<ids.count { LayerKernels.multiply(x + row * width, by: scale, count: width) }
    }
  }

  // MARK: Layers

  /// x = x + attention(norm(x)), or norm(x + attention(x)).
  private func attention(_ index: Int, _ runs: [TokenRun], _ layers: Layers, _ rows: Int, _ x: Floats, _ h: Floats) {
    let layer = weights.layers[index]
    let width = shape.width
    let stride = shape.queryWidth + 2 * shape.keyValueWidth
    let queryKeyValue = floats(Slot.queryKeyValue, rows * stride)
    let attended = floats(Slot.attended, rows * shape.queryWidth)
    if shape.normsFirst { layers.norm(layer.attentionNorm, shape, x, rows: 0..<rows, h) }
    layers.linear(layer.queryKeyValue, shape.normsFirst ? h : x, rows: 0..<rows, queryKeyValue)
    rotate(runs, queryKeyValue, stride)
    var row = 0
    var sequences: [Attention.Sequence] = []
    for run in runs where !run.ids.isEmpty {
      sequences.append(sequence(index, run, queryKeyValue + row * stride, stride, attended + row * shape.queryWidth))
      row += run.ids.count
    }
    // Masks live in their runs.
    withExtendedLifetime(runs) { shape.attention(index).run(sequences, engine.team) }
    layers.linear([layer.attentionOutput], attended, rows: 0..<rows, h)
    layers.add(h, to: x, rows: rows, width: width)
    if !shape.normsFirst { layers.norm(layer.attentionNorm, shape, x, rows: 0..<rows, x) }
  }

  /// Turns queries and keys to their positions.
  private func rotate(_ runs: [TokenRun], _ queryKeyValue: Floats, _ stride: Int) {
    guard let rotary else { return }
    rotary.reach(runs.reduce(0) { max($0, ($1.cache?.count ?? 0) + $1.ids.count) })
    let (cosines, sines) = (rotary.cosines.start, rotary.sines.start)
    let half = shape.headSize / 2
    let positions = runs.flatMap { run in run.ids.indices.map { (run.cache?.count ?? 0) + $0 } }
    engine.team.split(positions.count, grain: 16) { part, _ in
      for row in part {
        for head in 0..<shape.heads + shape.keyValueHeads {
          LayerKernels.rotate(
            queryKeyValue + row * stride + head * shape.headSize, cosines: cosines + positions[row] * half,
            sines: sines + positions[row] * half, half: half)
        }
      }
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

  /// x = x + mlp(norm(x)), or norm(x + mlp(x)).
  private func mlp(_ layer: LayerWeights, _ layers: Layers, _ rows: Int, _ x: Floats, _ h: Floats) {
    let width = shape.width
    let inner = layer.down.inputs
    let upWidth = layer.up.reduce(0) { $0 + $1.outputs }
    for start in stride(from: 0, to: rows, by: Self.mlpRows) {
      let part = start..<min(start + Self.mlpRows, rows)
      let up = floats(Slot.up, part.count * upWidth)
      let xs = x + start * width
      let hs = h + start * width
      if shape.normsFirst { layers.norm(layer.mlpNorm, shape, x, rows: part, h) }
      layers.linear(layer.up, shape.normsFirst ? hs : xs, rows: part, up)
      activate(up, part.count, inner: inner)
      layers.linear([layer.down], up, rows: part, hs)
      layers.add(hs, to: xs, rows: part.count, width: width)
      if !shape.normsFirst { layers.norm(layer.mlpNorm, shape, x, rows: part, x) }
    }
  }

  /// Rows of `inner` numbers from rows of one or two projections, in place.
  private func activate(_ up: Floats, _ rows: Int, inner: Int) {
    guard shape.isGated else {
      engine.team.split(rows * inner, grain: 1 << 14) { part, _ in
        LayerKernels.activate(shape.activation, up + part.lowerBound, count: part.count, up + part.lowerBound)
      }
      return
    }
    engine.team.split(rows, grain: max(1, (1 << 13) / inner)) { part, _ in
      for row in part {
        let gate = up + row * 2 * inner
        LayerKernels.activate(shape.activation, gate: gate, times: gate + inner, count: inner, gate)
      }
    }
    // Rows close up: each moves down to where only rows before it were.
    for row in 1..<max(rows, 1) { (up + row * inner).update(from: up + row * 2 * inner, count: inner) }
  }

  // MARK: Heads

  /// Scores of the vocabulary for some rows of `hidden`, [rows, vocabulary].
  ///
  /// - Throws: `.quality` if one is not finite, `.usage` for models without a language head
  package func logits(_ hidden: UnsafePointer<Float>, rows: [Int], of runs: [TokenRun]) throws -> UnsafePointer<Float> {
    guard case .language(let head) = weights.head else {
      throw NibbleError.usage("the model has no language head: it cannot score or generate text")
    }
    let scores = try project(head, hidden, rows: rows, runs, slot: Slot.scores)
    guard LayerKernels.allFinite(scores, count: rows.count * head.outputs) else {
      throw NibbleError.quality("the output head gives NaN or infinite scores")
    }
    return UnsafePointer(scores)
  }

  /// One layer on some rows of a pass, gathered, each with its own run's adapters.
  private func project(
    _ layer: Linear, _ x: UnsafePointer<Float>, rows: [Int], _ runs: [TokenRun], slot: Int
  ) throws -> Floats {
    let gathered = floats(Slot.dense, rows.count * layer.inputs)
    for (index, row) in rows.enumerated() {
      (gathered + index * layer.inputs).update(from: x + row * layer.inputs, count: layer.inputs)
    }
    let out = floats(slot, rows.count * layer.outputs)
    let layers = Layers(engine: engine, segments: segments(of: rows, runs), scratch: scratch)
    layers.linear([layer], gathered, rows: 0..<rows.count, out)
    return out
  }

  /// Segments of a choice of rows, in ascending order.
  private func segments(of rows: [Int], _ runs: [TokenRun]) -> [Segment] {
    var choice = runs
    var end = 0
    var next = 0
    for index in choice.indices {
      end += runs[index].ids.count
      let first = next
      while next < rows.count, rows[next] < end { next += 1 }
      choice[index].ids = Array(repeating: 0, count: next - first)
    }
    return Segment.segments(choice)
  }

  /// Scores of the classes, [runs, labels].
  package func classScores(_ hidden: UnsafePointer<Float>, _ head: ClassificationHead, of runs: [TokenRun]) throws
    -> UnsafePointer<Float>
  {
    // After pooling there is one row a run.
    var x = UnsafePointer(floats(Slot.pooled, runs.count * shape.width))
    pool(hidden, head, runs, UnsafeMutablePointer(mutating: x))
    let rows = Array(runs.indices)
    let left = runs.map { TokenRun([0], adapters: $0.adapters) }
    func next(_ layer: Linear, slot: Int) throws -> Floats {
      let out = try project(layer, x, rows: rows, left, slot: slot)
      x = UnsafePointer(out)
      return out
    }
    for layer in head.dense {
      let out = try next(layer, slot: Slot.rows)
      LayerKernels.activate(.tanh, out, count: runs.count * layer.outputs, out)
    }
    let scores = try next(head.output, slot: Slot.scores)
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
