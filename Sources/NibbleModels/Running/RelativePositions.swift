import Glibc
import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Positions as distances between tokens (DeBERTa): a table that every layer projects to keys and queries of its own, with the
/// projections of its tokens or with others.
package struct RelativePositions: Sendable {
  /// Distances −span to span − 1, [2 · span, width].
  package var table: Embedding
  package var norm: Norm?
  /// Distances above half of it share rows, the wider the farther; 0 for a row each.
  package var buckets: Int
  /// `max_relative_positions`: what the buckets of far distances are spread over.
  package var longest: Int
  /// Whether contents look at positions, and positions at contents.
  package var hasKeys: Bool
  package var hasQueries: Bool

  package init(table: Embedding, norm: Norm?, buckets: Int, longest: Int, hasKeys: Bool, hasQueries: Bool) {
    (self.table, self.norm, self.buckets, self.longest) = (table, norm, buckets, longest)
    (self.hasKeys, self.hasQueries) = (hasKeys, hasQueries)
  }

  /// Whether distances count for anything.
  var isUsed: Bool { hasKeys || hasQueries }
  var span: Int { buckets > 0 ? buckets : longest }

  /// Rows of the table that sequences look at, of their `steps`.
  func rows(_ steps: [Int]) -> [Int] {
    let reach = min(steps.last ?? 0, span)
    return Array(span - reach...min(span + reach, 2 * span - 1))
  }

  /// Rows from that of distance 0 to that of each distance. In float32, as transformers has it.
  func steps(_ count: Int) -> [Int] {
    let half = buckets / 2
    return (0..<max(count, 1)).map { distance in
      guard buckets > 0, distance > half else { return distance }
      let ratio = logf(Float(distance) / Float(half)) / logf(Float(Double(longest - 1) / Double(half)))
      let row = (ratio * Float(half - 1)).rounded(.up) + Float(half)
      return row.isFinite && row < Float(2 * span) ? Int(row) : 2 * span
    }
  }
}

/// What a layer makes of the rows of distances that its sequences have.
private final class DistanceRows {
  /// Rows of the table, and of them the first.
  let ids: [Int]
  /// The table's rows, before and behind the norm, [ids, width].
  let looked, input: FloatStore
  /// As keys and queries, side by side.
  let projected: FloatStore
  let layers: [Linear]
  let tape = LinearTape()
  let steps: [Int]
  let center: Int

  init(_ ids: [Int], width: Int, layers: [Linear], steps: [Int], center: Int) {
    (self.ids, self.layers, self.steps, self.center) = (ids, layers, steps, center)
    looked = FloatStore(count: ids.count * width)
    input = FloatStore(count: ids.count * width)
    projected = FloatStore(count: ids.count * layers.reduce(0) { $0 + $1.outputs })
  }

  var stride: Int { layers.reduce(0) { $0 + $1.outputs } }
}

extension Transformer {
  /// The layers that make keys and queries of distances: the layer's own for them, or those of its tokens.
  private func distanceLayers(_ relative: RelativePositions, _ projections: [Linear], _ own: [Linear]) -> [Linear] {
    guard own.isEmpty else { return own }
    return (relative.hasKeys ? [projections[1]] : []) + (relative.hasQueries ? [projections[0]] : [])
  }

  private func distanceRows(
    _ relative: RelativePositions, _ segment: Segment, _ projections: [Linear], longest: Int, _ layers: Layers
  ) -> (rows: DistanceRows, layers: Layers) {
    let steps = relative.steps(longest), ids = relative.rows(steps)
    let reach = min(steps.last ?? 0, relative.span)
    let rows = DistanceRows(
      ids, width: shape.width, layers: projections, steps: steps, center: reach)
    let own = Layers(
      engine: engine, exact: exact, segments: [Segment(rows: 0..<ids.count, adapters: segment.adapters)], scratch: layers.scratch,
      tape: layers.tape)
    look(up: ids, of: relative, segment, own, looked: rows.looked.start, into: rows.input.start)
    own.linear(rows.layers, rows.input.start, rows: 0..<ids.count, rows.projected.start, rows.tape)
    return (rows, own)
  }

  /// Rows of the table before and behind its norm, [ids, width].
  private func look(
    up ids: [Int], of relative: RelativePositions, _ segment: Segment, _ layers: Layers, looked: Floats, into input: Floats
  ) {
    look(up: ids, of: relative.table, segment, layers, into: looked)
    if let norm = relative.norm {
      layers.norm(norm, shape, looked, rows: 0..<ids.count, input)
    } else {
      input.update(from: looked, count: ids.count * shape.width)
    }
  }

  /// Rows of a table of distances with all that adapters change, [ids, width of the table].
  func look(up ids: [Int], of table: Embedding, _ segment: Segment, _ layers: Layers, into looked: Floats) {
    segment.matrix(table.id, table.matrix).lookUp(ids, into: looked)
    segment.rows(table.id)?.replace(ids, in: looked)
    layers.adapt(ids, of: table, segment, looked, layers.tape == nil ? engine : exact)
  }

  /// What layers that make keys and queries of distances take where sequences have so many tokens, [count, width]; nil for a model without
  /// such layers.
  package func distances(of tokens: Int) -> (values: FloatStore, count: Int)? {
    guard let relative = weights.relative, relative.isUsed, weights.layers.contains(where: { !$0.distances.isEmpty }) else { return nil }
    let ids = relative.rows(relative.steps(tokens))
    let layers = operations([ids.count], [[]], nil)
    guard let segment = layers.segments.first else { return nil }
    let (looked, input) = (FloatStore(count: ids.count * shape.width), FloatStore(count: ids.count * shape.width))
    look(up: ids, of: relative, segment, layers, looked: looked.start, into: input.start)
    return (input, ids.count)
  }

  private func attention(_ index: Int, _ relative: RelativePositions, _ rows: DistanceRows) -> RelativeAttention {
    let start = UnsafePointer(rows.projected.start)
    return RelativeAttention(
      shape.attention(index), keys: relative.hasKeys ? start : nil,
      queries: relative.hasQueries ? start + (relative.hasKeys ? shape.queryWidth : 0) : nil, stride: rows.stride, count: rows.ids.count,
      steps: rows.steps, center: rows.center)
  }

  /// Attention of all sequences, those with other adapters by themselves.
  func attendByDistance(
    _ index: Int, _ relative: RelativePositions, _ sequences: [Attention.Sequence], _ projections: [Linear], _ distances: [Linear],
    _ layers: Layers
  ) {
    let projections = distanceLayers(relative, projections, distances)
    eachSegment(sequences, layers) { segment, own, longest in
      let (rows, _) = distanceRows(relative, segment, projections, longest: longest, layers)
      layers.timed(.attention) { withExtendedLifetime(rows) { attention(index, relative, rows).run(own, engine.team) } }
    }
  }

  /// Hands out the sequences of each segment, with the tokens of the longest of them, what caches hold included.
  func eachSegment(_ sequences: [Attention.Sequence], _ layers: Layers, _ body: (Segment, [Attention.Sequence], Int) -> Void) {
    var rest = sequences[...]
    for segment in layers.segments {
      var left = segment.rows.count
      let own = Array(rest.prefix { sequence in
        left -= sequence.new
        return left >= 0
      })
      rest = rest.dropFirst(own.count)
      if let longest = own.map({ $0.past + $0.new }).max() { body(segment, own, longest) }
    }
  }

  /// The way back: of queries, keys and values, and of what made keys and queries of distances.
  ///
  /// - Parameter sum: gets the gradient of the normed table, [2 · span, width]; nil where nobody needs it
  func attendByDistanceBack(
    _ index: Int, _ relative: RelativePositions, _ pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)],
    _ layers: Layers, _ gradients: Gradients, sum: FloatStore?
  ) {
    guard let segment = layers.segments.first, let longest = pairs.map(\.sequence.new).max() else { return }
    let projections = distanceLayers(relative, weights.layers[index].queryKeyValue, weights.layers[index].distances)
    let (rows, own) = distanceRows(relative, segment, projections, longest: longest, layers)
    let gradient = FloatStore(count: rows.projected.count)
    gradient.start.update(repeating: 0, count: gradient.count)
    let keys = relative.hasKeys ? gradient.start : nil
    let queries = relative.hasQueries ? gradient.start + (relative.hasKeys ? shape.queryWidth : 0) : nil
    layers.timed(.attention) {
      attention(index, relative, rows).backward(pairs, RelativeAttention.TableGradient(keys: keys, queries: queries), engine.team)
    }
    let dInput = sum.map { _ in FloatStore(count: rows.input.count) }
    own.linearBack(
      rows.layers, rows.input.start, rows: rows.ids.count, gradient.start, dx: dInput?.start, rows.tape, gradients)
    guard let sum, let dInput, let first = rows.ids.first else { return }
    LayerKernels.add(dInput.start, count: dInput.count, to: sum.start + first * shape.width)
  }

  /// From the gradient of the normed table, summed over layers, to those of the norm and of the table's rows.
  func distancesBack(_ relative: RelativePositions, _ sum: FloatStore, _ layers: Layers, _ gradients: Gradients) {
    guard let segment = layers.segments.first else { return }
    let table = relative.table, ids = Array(0..<table.count)
    if let norm = relative.norm {
      let looked = FloatStore(count: sum.count)
      segment.matrix(table.id, table.matrix).lookUp(ids, into: looked.start)
      segment.rows(table.id)?.replace(ids, in: looked.start)
      layers.adapt(ids, of: table, segment, looked.start, exact)
      layers.normBack(norm, shape, sum.start, looked.start, rows: table.count, sum.start, gradients)
    }
    add(sum.start, ids, of: table, segment, layers, gradients)
  }
}

extension Gradients {
  /// Whether the table of distances, or the norm behind it, is trained.
  func has(_ relative: RelativePositions) -> Bool { has(relative.table) || relative.norm.map { has($0) } ?? false }

  /// Whether a table, rows of it or an adapter of it are trained.
  func has(_ table: Embedding) -> Bool { matrices[table.id] != nil || rows[table.id] != nil || tables[table.id] != nil }
}
