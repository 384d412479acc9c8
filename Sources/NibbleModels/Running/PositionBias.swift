import Glibc
import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Positions as a number for each distance and each head, added to the scores of every layer (T5, MPNet; Raffel et al., arXiv:1910.10683,
/// section 2.1). Near distances have a number of their own, farther ones share it, the wider the farther.
package struct PositionBias: Sendable {
  /// [buckets or more, heads]: where queries see both ways, the first half of the buckets for keys at and before the query, the second for keys
  /// behind it.
  package var table: Embedding
  /// Of `counts`.
  package var buckets: Int
  /// From this distance on all are in the last bucket. Above `exact`.
  package var longest: Int
  /// Whether queries see nothing behind them, so that all buckets are for keys at and before them.
  package var isCausal: Bool

  package init(table: Embedding, buckets: Int, longest: Int, isCausal: Bool = false) {
    (self.table, self.buckets, self.longest, self.isCausal) = (table, buckets, longest, isCausal)
  }

  /// Numbers of buckets there may be.
  static let counts = 4...1 << 16

  /// Distances below this have a bucket each.
  static func exact(_ buckets: Int, isCausal: Bool) -> Int { (isCausal ? buckets : buckets / 2) / 2 }

  /// The bucket of a query's place less the key's. In float32, as transformers has it.
  func bucket(_ distance: Int) -> Int {
    let own = isCausal ? buckets : buckets / 2, exact = Self.exact(buckets, isCausal: isCausal)
    let far = isCausal ? max(distance, 0) : abs(distance)
    let first = !isCausal && distance < 0 ? own : 0
    guard far >= exact else { return first + far }
    let ratio = logf(Float(far) / Float(exact)) / Float(log(Double(longest) / Double(exact))) * Float(own - exact)
    return first + (ratio < Float(own - 1 - exact) ? exact + Int(ratio) : own - 1)
  }

  /// The buckets of all places that a key may have less that of its query, in ascending order, where sequences have so many tokens.
  func buckets(_ tokens: Int) -> [Int] { (1 - tokens...(isCausal ? 0 : tokens - 1)).map { bucket(-$0) } }

  /// Places that a key may have less that of its query.
  func places(_ tokens: Int) -> Int { isCausal ? tokens : 2 * tokens - 1 }
}

extension Transformer {
  /// The numbers of every place, [heads, places]: made once for all layers of a pass.
  private func numbers(_ bias: PositionBias, _ segment: Segment, tokens: Int, _ layers: Layers) -> FloatStore {
    if let own = biasNumbers?[segment.rows] { return own }
    let buckets = bias.buckets(tokens), heads = bias.table.width
    let rows = FloatStore(count: buckets.count * heads), numbers = FloatStore(count: rows.count)
    look(up: buckets, of: bias.table, segment, layers, into: rows.start)
    for place in buckets.indices { for head in 0..<heads { numbers.start[head * buckets.count + place] = rows.start[place * heads + head] } }
    biasNumbers?[segment.rows] = numbers
    return numbers
  }

  /// Attention of all sequences, those with other adapters by themselves.
  func attendWithBias(_ index: Int, _ bias: PositionBias, _ sequences: [Attention.Sequence], _ layers: Layers) {
    eachSegment(sequences, layers) { segment, own, longest in
      let numbers = numbers(bias, segment, tokens: longest, layers)
      let sequences = own.map { biased($0, bias, numbers, tokens: longest) }
      layers.timed(.attention) { withExtendedLifetime(numbers) { shape.attention(index).run(sequences, engine.team) } }
    }
  }

  private func biased(_ sequence: Attention.Sequence, _ bias: PositionBias, _ numbers: FloatStore, tokens: Int) -> Attention.Sequence {
    var sequence = sequence
    sequence.bias = UnsafePointer(numbers.start + (tokens - 1))
    sequence.biasStride = bias.places(tokens)
    return sequence
  }

  /// The way back: of queries, keys and values, and of the numbers of places.
  ///
  /// - Parameter sum: gets the gradient of the numbers, [heads, places of the longest sequence]; nil where nobody needs it
  func attendWithBiasBack(
    _ index: Int, _ bias: PositionBias, _ pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)], _ layers: Layers, sum: FloatStore?
  ) {
    guard let segment = layers.segments.first, let longest = pairs.map(\.sequence.new).max() else { return }
    let numbers = numbers(bias, segment, tokens: longest, layers)
    let own = pairs.map { pair in
      var gradient = pair.gradient
      gradient.bias = sum.map { $0.start + (longest - 1) }
      return (sequence: biased(pair.sequence, bias, numbers, tokens: longest), gradient: gradient)
    }
    layers.timed(.attention) { withExtendedLifetime((numbers, sum)) { shape.attention(index).backward(own, engine.team) } }
  }

  /// From the gradient of the numbers of places, summed over layers, to that of the table.
  func biasBack(_ bias: PositionBias, _ sum: FloatStore, tokens: Int, _ layers: Layers, _ gradients: Gradients) {
    guard let segment = layers.segments.first else { return }
    let buckets = bias.buckets(tokens), heads = bias.table.width, rows = FloatStore(count: sum.count)
    for place in buckets.indices { for head in 0..<heads { rows.start[place * heads + head] = sum.start[head * buckets.count + place] } }
    add(rows.start, buckets, of: bias.table, segment, layers, gradients)
  }
}
