import NibbleCompute
import NibbleCore

/// What becomes of queries and keys between their projections and attention: their order, norms, positions.
extension Transformer {
  // MARK: Order

  /// Rows of [queries, key, value] of one head of keys after another become [queries, keys, values].
  func ungroup(_ grouped: Floats, _ rows: Int, to out: Floats) { moveGroups(rows) { (out + $0).update(from: grouped + $1, count: $2) } }

  /// The way back.
  func group(_ queryKeyValue: Floats, _ rows: Int, to out: Floats) {
    moveGroups(rows) { (out + $1).update(from: queryKeyValue + $0, count: $2) }
  }

  /// Hands out each run of numbers: where it lies in the order of attention, where in that of the projection, how long it is.
  private func moveGroups(_ rows: Int, _ move: (_ own: Int, _ grouped: Int, _ count: Int) -> Void) {
    let (size, width) = (shape.headSize, shape.attentionWidth)
    let queries = shape.heads / shape.keyValueHeads * size
    for row in 0..<rows {
      for head in 0..<shape.keyValueHeads {
        let from = row * width + head * (queries + 2 * size), to = row * width
        move(to + head * queries, from, queries)
        move(to + shape.queryWidth + head * size, from + queries, size)
        move(to + shape.queryWidth + shape.keyWidth + head * size, from + queries + size, size)
      }
    }
  }

  // MARK: Norms

  /// The norms of queries and keys, with where in a row they begin and how the numbers lie.
  private func headNorms(_ index: Int) -> [(norm: Norm, column: Int, lie: NormRows)] {
    let layer = weights.layers[index], epsilon = shape.plainHeadNorms.indices.contains(index) ? shape.plainHeadNorms[index] : nil
    let plain = epsilon.map { _ in plainHeadNorm }
    return [(layer.queryNorm ?? plain, 0, shape.queryWidth), (layer.keyNorm ?? plain, shape.queryWidth, shape.keyWidth)].compactMap { norm, column, width in
      norm.map { norm in
        let count = norm.weight.values.count
        return (norm, column, NormRows(count: count, groups: width / max(count, 1), stride: shape.attentionWidth, epsilon: epsilon))
      }
    }
  }

  /// Norms queries and keys in place.
  ///
  /// - Parameter tape: gets what they were
  func normHeads(_ index: Int, _ layers: Layers, _ rows: Int, _ queryKeyValue: Floats, _ tape: LayerTape?) {
    for (norm, column, lie) in headNorms(index) {
      if let tape {
        for row in 0..<rows {
          let at = row * shape.attentionWidth + column
          (tape.projected.start + at).update(from: queryKeyValue + at, count: lie.count * lie.groups)
        }
      }
      layers.norm(norm, shape, queryKeyValue + column, rows: 0..<rows, queryKeyValue + column, lie)
    }
  }

  /// Gradients of normed queries and keys become those of what was normed.
  func normHeadsBack(
    _ index: Int, _ layers: Layers, _ rows: Int, _ gradient: Floats, _ tape: LayerTape, _ gradients: Gradients
  ) {
    for (norm, column, lie) in headNorms(index) {
      layers.normBack(
        norm, shape, gradient + column, tape.projected.start + column, rows: rows, gradient + column, gradients, lie)
    }
  }

  // MARK: Positions

  /// Turns queries and keys of a layer to their positions, or gradients back.
  func rotate(_ index: Int, _ runs: [TokenRun], _ queryKeyValue: Floats, back: Bool = false) {
    rotate(
      index, runs, queryKeyValue + shape.unturned, heads: shape.heads + shape.keyValueHeads, apart: shape.headSize, stride: shape.attentionWidth,
      back: back)
  }

  /// Turns vectors of every token, `apart` floats from one to the next and `stride` from token to token.
  func rotate(_ index: Int, _ runs: [TokenRun], _ vectors: Floats, heads: Int, apart: Int, stride: Int, back: Bool = false) {
    guard let rotary = rotary[index] else { return }
    rotary.reach(runs.reduce(0) { max($0, ($1.cache?.count ?? 0) + $1.ids.count) })
    let half = rotary.half
    /// Rows of the table.
    let positions = runs.flatMap { run in
      let past = run.cache?.count ?? 0, first = rotary.first(isLong: isLong(run))
      return run.ids.indices.map { first + past + $0 }
    }
    let (cosines, sines) = (rotary.cosines.start, rotary.sines.start)
    engine.team.split(positions.count, grain: 16) { part, _ in
      withUnsafeTemporaryAllocation(of: Float.self, capacity: half) { turned in
        for row in part {
          var sine = UnsafePointer(sines + positions[row] * half)
          if back, let start = turned.baseAddress {
            for i in 0..<half { start[i] = -sine[i] }
            sine = UnsafePointer(start)
          }
          let cosine = UnsafePointer(cosines + positions[row] * half)
          for head in 0..<heads {
            let x = vectors + row * stride + head * apart
            if rotary.isPaired {
              LayerKernels.rotatePairs(x, cosines: cosine, sines: sine, count: half)
            } else {
              LayerKernels.rotate(x, cosines: cosine, sines: sine, half: half)
            }
          }
        }
      }
    }
  }

  /// Tokens up to which a sequence is turned as in training, where longer ones are turned in another way (LongRoPE).
  private var trainedLength: Int? { shape.rotary.lazy.compactMap { $0?.long?.trained }.first }

  private func isLong(_ run: TokenRun) -> Bool {
    guard let trained = trainedLength else { return false }
    return run.cache?.isLong ?? (run.ids.count > trained)
  }

  /// Computes anew what caches hold of sequences that are no longer turned as they were: those that grow past the trained length, or were
  /// cut below it.
  func turnCaches(of runs: [TokenRun]) throws {
    guard let trained = trainedLength else { return }
    for run in runs {
      guard let cache = run.cache else { continue }
      let isLong = cache.count + run.ids.count > trained
      guard cache.isLong != isLong else { continue }
      let past = TokenRun(cache.ids, cache: cache, adapters: run.adapters)
      cache.truncate(to: 0)
      cache.isLong = isLong
      if !past.ids.isEmpty { _ = try states(.tokens([past]), [past], nil) }
    }
  }
}
