import Glibc
import NibbleAdapters
import NibbleCompute
import NibbleCore

/// Positions as a number for each distance and each head, added to the scores of every layer (T5, MPNet). Near distances have a number of
/// their own, farther ones share it, the wider the farther.
package struct PositionBias: Sendable {
  /// [buckets or more, heads]: the first half of the buckets for keys at and before the query, the second for keys behind it.
  package var table: Embedding
  /// An even number, 4 or more.
  package var buckets: Int
  /// From this distance on all are in the last bucket.
  package var longest: Int

  package init(table: Embedding, buckets: Int, longest: Int) { (self.table, self.buckets, self.longest) = (table, buckets, longest) }

  /// The bucket of a query's place less the key's. In float32, as transformers has it.
  func bucket(_ distance: Int) -> Int {
    let half = buckets / 2, exact = half / 2, far = abs(distance)
    let first = distance < 0 ? half : 0
    guard far >= exact else { return first + far }
    let ratio = logf(Float(far) / Float(exact)) / Float(log(Double(longest) / Double(exact))) * Float(half - exact)
    return first + (ratio < Float(half - 1 - exact) ? exact + Int(ratio) : half - 1)
  }

  /// The buckets of all distances in a sequence, from the last key's to the first one's.
  func buckets(_ tokens: Int) -> [Int] { (1 - tokens..<tokens).map(bucket) }
}

extension Transformer {
  private func attention(_ index: Int, _ bias: UnsafePointer<Float>, longest: Int) -> RelativeAttention {
    RelativeAttention(shape.attention(index), bias: bias, count: 2 * longest - 1, steps: Array(0..<longest), center: longest - 1)
  }

  /// The numbers of every distance, [2 · longest − 1, heads].
  private func numbers(_ bias: PositionBias, _ segment: Segment, longest: Int, _ layers: Layers) -> FloatStore {
    let buckets = bias.buckets(longest)
    let numbers = FloatStore(count: buckets.count * bias.table.width)
    look(up: buckets, of: bias.table, segment, layers, into: numbers.start)
    return numbers
  }

  /// Attention of all sequences, those with other adapters by themselves.
  func attendWithBias(_ index: Int, _ bias: PositionBias, _ sequences: [Attention.Sequence], _ layers: Layers) {
    eachSegment(sequences, layers) { segment, own, longest in
      let numbers = numbers(bias, segment, longest: longest, layers)
      layers.timed(.attention) { withExtendedLifetime(numbers) { attention(index, numbers.start, longest: longest).run(own, engine.team) } }
    }
  }

  /// The way back: of queries, keys and values, and of the numbers of distances.
  ///
  /// - Parameter sum: gets the gradient of the numbers, [2 · longest − 1, heads]; nil where nobody needs it
  func attendWithBiasBack(
    _ index: Int, _ bias: PositionBias, _ pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)], _ layers: Layers, sum: FloatStore?
  ) {
    guard let segment = layers.segments.first, let longest = pairs.map(\.sequence.new).max() else { return }
    let numbers = numbers(bias, segment, longest: longest, layers)
    layers.timed(.attention) {
      withExtendedLifetime(numbers) {
        attention(index, numbers.start, longest: longest).backward(pairs, RelativeAttention.TableGradient(bias: sum?.start), engine.team)
      }
    }
  }

  /// From the gradient of the numbers of distances, summed over layers, to that of the table.
  func biasBack(_ bias: PositionBias, _ sum: FloatStore, _ layers: Layers, _ gradients: Gradients) {
    guard let segment = layers.segments.first else { return }
    add(sum.start, bias.buckets((sum.count / max(1, bias.table.width) + 1) / 2), of: bias.table, segment, layers, gradients)
  }
}
