import NibbleCore

/// Attention whose scores also depend on how far two tokens are apart.
///
/// With q's query Q, k's key K and the row δ(q − k) of a table of distances, projected to keys P and to queries R, scores are
/// Q·K + Q·P[δ] + K·R[δ]: contents, content to position, position to content (He et al., arXiv:2006.03654, eq. 4).
package struct RelativeAttention {
  package var attention: Attention
  /// Rows of distances as keys and as queries, heads side by side; nil for a term that is not there.
  package var keys, queries: UnsafePointer<Float>?
  /// Floats between rows of either.
  package var stride: Int
  /// Rows there are.
  package var count: Int
  /// The row of each distance from 0 up, counted from the one for 0; that of −d is as far on the other side.
  package var steps: [Int]
  /// The row for 0.
  package var center: Int

  package init(
    _ attention: Attention, keys: UnsafePointer<Float>? = nil, queries: UnsafePointer<Float>? = nil, stride: Int,
    count: Int, steps: [Int], center: Int
  ) {
    (self.attention, self.keys, self.queries, self.stride) = (attention, keys, queries, stride)
    (self.count, self.steps, self.center) = (count, steps, center)
  }

  /// What comes back to the rows of distances, [count, …] as they are; added to.
  package struct TableGradient {
    package var keys, queries: UnsafeMutablePointer<Float>?

    package init(keys: UnsafeMutablePointer<Float>? = nil, queries: UnsafeMutablePointer<Float>? = nil) {
      (self.keys, self.queries) = (keys, queries)
    }
  }

  private enum Slot { static let weights = 8, slopes = 9, toPosition = 10, fromPosition = 11 }

  /// The table's row for a query and a key.
  private func row(_ query: Int, _ key: Int) -> Int {
    let row = query >= key ? center + steps[query - key] : center - steps[key - query]
    return min(max(row, 0), count - 1)
  }

  /// Computes all sequences, whose tokens see each other; a head at a time.
  package func run(_ sequences: [Attention.Sequence], _ team: Team) {
    team.run(sequences.count * attention.heads) { task, scratch in
      let (index, head) = task.quotientAndRemainder(dividingBy: attention.heads)
      let sequence = sequences[index], n = sequence.new, size = attention.size
      let weights = weigh(sequence, head, scratch)
      attention.multiply(
        weights, n, sequence.value + head * size, sequence.keyStride, transposed: false, sequence.output + head * size,
        sequence.outputStride, n, size, n)
    }
  }

  /// Weights of one head, [tokens, tokens].
  private func weigh(_ sequence: Attention.Sequence, _ head: Int, _ scratch: Scratch) -> UnsafeMutablePointer<Float> {
    let n = sequence.new, size = attention.size, column = head * size
    let query = sequence.query + column, key = sequence.key + column
    let weights = scratch.floatStart(Slot.weights, n * n)
    attention.multiply(query, sequence.queryStride, key, sequence.keyStride, transposed: true, weights, n, n, n, size)
    if let keys {
      let term = scratch.floatStart(Slot.toPosition, n * count)
      attention.multiply(query, sequence.queryStride, keys + column, stride, transposed: true, term, count, n, count, size)
      for i in 0..<n { for j in 0..<n { weights[i * n + j] += term[i * count + row(i, j)] } }
    }
    if let queries {
      let term = scratch.floatStart(Slot.fromPosition, n * count)
      attention.multiply(key, sequence.keyStride, queries + column, stride, transposed: true, term, count, n, count, size)
      for i in 0..<n { for j in 0..<n { weights[i * n + j] += term[j * count + row(i, j)] } }
    }
    for i in 0..<n { attention.weigh(weights + i * n, n, seen: 0..<n, sequence.mask) }
    return weights
  }

  /// Gradients of all sequences and of the rows of distances; weights are computed once more. Threads share heads, so that sums over
  /// sequences are added in one order.
  ///
  /// With dS the gradient of the scores and C[q, r], D[k, r] its sums over keys and queries at distance r:
  /// dQ = dS K + C P, dK = dSᵀ Q + D R, dP = Cᵀ Q, dR = Dᵀ K.
  package func backward(_ pairs: [(sequence: Attention.Sequence, gradient: Attention.Gradient)], _ table: TableGradient, _ team: Team) {
    team.run(attention.heads) { head, scratch in
      for pair in pairs { backward(pair.sequence, pair.gradient, table, head, scratch) }
    }
  }

  private func backward(
    _ sequence: Attention.Sequence, _ gradient: Attention.Gradient, _ table: TableGradient, _ head: Int, _ scratch: Scratch
  ) {
    let n = sequence.new, size = attention.size, column = head * size
    let query = sequence.query + column, key = sequence.key + column, value = sequence.value + column
    let dOut = gradient.output + column
    let weights = weigh(sequence, head, scratch)
    let slopes = scratch.floatStart(Slot.slopes, n * n)
    attention.multiply(
      weights, n, dOut, gradient.outputStride, transposed: false, gradient.value + column, gradient.stride, n, size, n, transposedLeft: true)
    attention.multiply(dOut, gradient.outputStride, value, sequence.keyStride, transposed: true, slopes, n, n, n, size)
    for i in 0..<n { LayerKernels.softmaxBack(weights + i * n, slopes + i * n, count: n, scale: attention.scale) }
    let dQuery = gradient.query + column, dKey = gradient.key + column
    attention.multiply(slopes, n, key, sequence.keyStride, transposed: false, dQuery, gradient.stride, n, size, n)
    attention.multiply(slopes, n, query, sequence.queryStride, transposed: false, dKey, gradient.stride, n, size, n, transposedLeft: true)
    /// The sums of `slopes` by token and distance, then what they make of the token's gradient and of the table's.
    func spread(
      _ rows: UnsafePointer<Float>, _ dRows: UnsafeMutablePointer<Float>?, _ own: UnsafePointer<Float>, _ ownStride: Int,
      _ dOwn: UnsafeMutablePointer<Float>, byKey: Bool
    ) {
      let sums = scratch.floatStart(Slot.toPosition, n * count)
      sums.update(repeating: 0, count: n * count)
      for i in 0..<n { for j in 0..<n { sums[(byKey ? j : i) * count + row(i, j)] += slopes[i * n + j] } }
      attention.multiply(
        sums, count, rows + column, stride, transposed: false, dOwn, gradient.stride, n, size, count, adds: true)
      if let dRows {
        attention.multiply(
          sums, count, own, ownStride, transposed: false, dRows + column, stride, count, size, n, adds: true, transposedLeft: true)
      }
    }
    if let keys { spread(keys, table.keys, query, sequence.queryStride, dQuery, byKey: false) }
    if let queries { spread(queries, table.queries, key, sequence.keyStride, dKey, byKey: true) }
  }
}
