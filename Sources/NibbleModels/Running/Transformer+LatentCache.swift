import NibbleCompute
import NibbleCore

/// Attention of sequences whose caches hold latents.
extension Transformer {
  /// What attention makes of them; the latents of new tokens go to the caches.
  ///
  /// - Parameter queryKeyValue: in its rows, queries
  func attendLatents(
    _ index: Int, _ latent: LatentProjections, _ own: KeyLatents, _ runs: [TokenRun], _ queryKeyValue: Floats, _ attended: Floats
  ) {
    guard let heads = latentHeads?[index] else { return }
    let most = heads.most(shape)
    var row = 0
    /// Neighbours that look at latents: they share products.
    var together: [TokenRun] = []
    func finish() {
      let rows = together.reduce(0) { $0 + $1.ids.count }, first = row - rows
      if rows > 0 {
        absorb(index, heads, together, rows, queryKeyValue + first * shape.attentionWidth, attended + first * shape.attendedWidth)
      }
      together = []
    }
    for run in runs {
      guard let cache = run.cache, cache.keepsLatents else {
        finish()
        row += run.ids.count
        continue
      }
      guard !run.ids.isEmpty else { continue }
      keep(own, row, run.ids.count, heads.rank, cache, index)
      let isShort = cache.count > 0 && run.ids.count <= most
      if !isShort { finish() }
      if isShort {
        together.append(run)
      } else {
        attendExpanded(index, latent, run, queryKeyValue + row * shape.attentionWidth, attended + row * shape.attendedWidth)
      }
      row += run.ids.count
    }
    finish()
  }

  /// A cache gets the latents of new tokens, each with what heads share of its key behind it.
  private func keep(_ own: KeyLatents, _ row: Int, _ count: Int, _ rank: Int, _ cache: KeyValueCache, _ index: Int) {
    let room = cache.layer(index).keys + cache.count * (rank + turned)
    for token in 0..<count {
      let to = room + token * (rank + turned)
      to.update(from: own.latents + (row + token) * rank, count: rank)
      (to + rank).update(from: own.shared + (row + token) * own.stride, count: turned)
    }
  }

  /// Looks at latents as they are.
  private func absorb(_ index: Int, _ heads: LatentHeads, _ runs: [TokenRun], _ rows: Int, _ queryKeyValue: Floats, _ attended: Floats) {
    let rank = heads.rank, size = rank + turned, width = shape.heads * size
    let queries = floats(Slot.absorbed, rows * width), given = floats(Slot.absorbedGiven, rows * shape.heads * rank)
    engine.multiply(
      rows: rows, stride: shape.attentionWidth,
      each: heads.keys.enumerated().map { head, key in .init(queryKeyValue + head * shape.headSize, key, queries + head * size, stride: width) })
    for row in 0..<rows {
      for head in 0..<shape.heads {
        (queries + row * width + head * size + rank).update(
          from: queryKeyValue + row * shape.attentionWidth + head * shape.headSize + shape.unturned, count: turned)
      }
    }
    var row = 0
    let sequences = runs.map { run in
      defer { row += run.ids.count }
      let own = latentSequence(index, run, queries + row * width, stride: width, given + row * shape.heads * rank, stride: shape.heads * rank)
      guard let room = run.cache?.layer(index).keys else { return own }
      var sequence = own
      (sequence.key, sequence.value) = (UnsafePointer(room), UnsafePointer(room))
      (sequence.keyStride, sequence.keyHeadStride, sequence.valueStride, sequence.valueHeadStride) = (size, 0, size, 0)
      return sequence
    }
    // All heads see the same vectors: in as many parts as there are threads.
    let parts = (1...shape.heads).first { shape.heads % $0 == 0 && $0 >= engine.team.threads } ?? shape.heads
    var attention = shape.attention(index)
    (attention.keyValueHeads, attention.size, attention.valueSize) = (parts, size, rank)
    attention.run(sequences, engine.team)
    engine.multiply(
      rows: rows, stride: shape.heads * rank,
      each: heads.values.enumerated().map { head, value in
        .init(given + head * rank, value, attended + head * shape.valueSize, stride: shape.attendedWidth)
      })
  }

  /// Expands the latents of all tokens of a sequence.
  private func attendExpanded(_ index: Int, _ latent: LatentProjections, _ run: TokenRun, _ queryKeyValue: Floats, _ attended: Floats) {
    guard let cache = run.cache else { return }
    let room = cache.layer(index).keys, tokens = cache.count + run.ids.count, rank = latent.keyValueLatent.size
    let (size, valueSize, outputs) = (shape.headSize, shape.valueSize, latent.keyValue.outputs)
    let expanded = floats(Slot.expanded, tokens * outputs)
    let keys = floats(Slot.latentKeys, tokens * shape.keyWidth), values = floats(Slot.latentValues, tokens * shape.valueWidth)
    engine.multiply(room, rows: tokens, stride: rank + turned, [.init(latent.keyValue.matrix, expanded, stride: outputs)])
    engine.team.split(tokens, grain: max(1, (1 << 15) / outputs)) { part, _ in
      for token in part {
        let shared = room + token * (rank + turned) + rank
        for head in 0..<shape.heads {
          let own = expanded + token * outputs + head * (shape.unturned + valueSize), place = head * tokens + token
          (keys + place * size).update(from: own, count: shape.unturned)
          (keys + place * size + shape.unturned).update(from: shared, count: turned)
          (values + place * valueSize).update(from: own + shape.unturned, count: valueSize)
        }
      }
    }
    var sequence = latentSequence(index, run, queryKeyValue, stride: shape.attentionWidth, attended, stride: shape.attendedWidth)
    (sequence.key, sequence.value) = (UnsafePointer(keys), UnsafePointer(values))
    (sequence.keyStride, sequence.keyHeadStride) = (size, tokens * size)
    (sequence.valueStride, sequence.valueHeadStride) = (valueSize, tokens * valueSize)
    shape.attention(index).run([sequence], engine.team)
  }

  /// A run's part of attention, without keys and values.
  private func latentSequence(_ index: Int, _ run: TokenRun, _ query: Floats, stride: Int, _ output: Floats, stride outputStride: Int) -> Attention.Sequence {
    Attention.Sequence(
      query: query, queryStride: stride, key: query, value: query, keyStride: stride, keyHeadStride: 0, past: run.cache?.count ?? 0,
      new: run.ids.count, window: shape.windows[index], mask: nil, output: output, outputStride: outputStride)
  }

  /// Computes anew what caches hold of sequences with adapters that change how latents are expanded: they keep keys and values then.
  func expandCaches(of runs: [TokenRun]) throws {
    for run in runs {
      guard let cache = run.cache, cache.keepsLatents, adapts(run.adapters) else { continue }
      let expanded = KeyValueCache(shape)
      expanded.isLong = cache.isLong
      let past = TokenRun(cache.ids, cache: expanded, adapters: run.adapters)
      if !past.ids.isEmpty { _ = try states(.tokens([past]), [past], nil) }
      cache.assign(expanded)
    }
  }

  private func adapts(_ adapters: [ActiveAdapter]) -> Bool {
    guard !adapters.isEmpty else { return false }
    let segment = Segment(rows: 0..<0, adapters: adapters)
    return weights.layers.contains { layer in
      guard let id = layer.latent?.keyValue.id else { return false }
      return !segment.methods(id).isEmpty || segment.rows(id) != nil || segment.replaces(id)
    }
  }
}
