import NibbleCompute

/// What is asked of a transformer beside its passes.
extension Transformer {
  /// Tokens that are no padding: the mean leaves others out, the last is the last of these.
  package func pooled(_ batch: Batch, _ token: ClassificationHead.Token) -> [[(row: Int, weight: Float)]] {
    guard case .tokens(let runs) = batch else { return [] }
    return runs.map { run in
      switch token {
      case .first: return [(0, 1)]
      case .second: return [(1, 1)]
      case .last: return [(lastToken(run), 1)]
      case .mean:
        let seen = run.ids.indices.filter { run.mask?.isVisible($0) ?? true }
        return seen.map { ($0, 1 / Float(max(seen.count, 1))) }
      }
    }
  }

  /// The last token that is no padding.
  private func lastToken(_ run: TokenRun) -> Int {
    if let padding = shape.padding, let last = run.ids.lastIndex(where: { $0 != padding }) { return last }
    if let last = run.mask?.last { return last }
    return max(run.ids.count - 1, 0)
  }

  package func room(_ size: PassSize) -> PassRoom {
    let layers = weights.layers
    let rows = size.inputs * size.length
    let attention = shape.attentionWidth
    let tape = layers.map { layer in
      let branches = [layer.attentionNorms, layer.mlpNorms].count { $0.after != nil }
      let inner = layer.used * (layer.upWidth + layer.down.inputs)
      let routed = layer.experts.map { $0.all.count + $0.used * shape.width } ?? 0
      let shared = layer.experts?.shared.map { $0.expert.upWidth + $0.expert.down.inputs + shape.width + 1 } ?? 0
      let latent = layer.latent.map { 2 * $0.latents } ?? 0
      let cross = layer.cross == nil ? 0 : 2 * (shape.width + shape.queryWidth + shape.keyWidth)
      return (3 + branches) * shape.width + attention * (layer.normsHeads || shape.normsHeadsPlainly ? 2 : 1) + shape.attendedWidth + inner + routed + shared + latent + cross
    }
    // Rows that experts take and give, and the gradients of both and of what they count with.
    let routed = layers.compactMap(\.experts).map { ($0.used + 2) * shape.width + $0.all.count + $0.used }.max() ?? 0
    let kept = size.checkpointing ? tape.max() ?? 0 : tape.reduce(0, +)
    // What scaled layers gave before; of experts only those that a token takes.
    let scaled = layers.map { layer in
      func outputs(_ linears: [Linear]) -> Int { linears.filter { size.scaled.contains($0.id) }.reduce(0) { $0 + $1.outputs } }
      guard let experts = layer.experts else { return outputs(layer.linears) }
      let own = experts.all.flatMap(\.linears)
      return outputs(layer.linears) - outputs(own) + outputs(own) * experts.used / max(1, experts.all.count)
    }
    let unscaled = size.checkpointing ? scaled.max() ?? 0 : scaled.reduce(0, +)
    let shared = layers.compactMap { $0.experts?.shared?.expert }
    let inner = (layers.map(\.down.inputs) + shared.map(\.down.inputs)).max() ?? 0
    let wide = max(attention, (layers.map(\.upWidth) + shared.map(\.upWidth)).max() ?? 0)
    // What an expert for all tokens gives, with two gradients; latents and what is made of them.
    let beside = (shared.isEmpty ? 0 : 2 * shape.width + 1) + (layers.compactMap(\.latent).map(\.inHand).max().map { $0 + shape.width } ?? 0)
    // Distances as keys and queries with their gradients, and whole rows of scores.
    let distances = weights.relative.map { relative in
      let count = min(relative.table.count, 2 * size.length)
      return count * (2 * shape.width + 4 * shape.queryWidth) + size.threads * 2 * size.length * (size.length + count)
    } ?? weights.positionBias.map { 6 * size.length * $0.table.width }
    // Keys and values of sources with what comes back, and what does so to their states.
    let crossed = layers.contains { $0.cross != nil } ? 2 * shape.keyWidth + shape.width : 0
    let narrow = weights.embeddingProjection == nil ? 0 : 3 * weights.embeddingWidth
    return PassRoom(
      rows: rows, kept: rows * (narrow + (layers.count + 1) * shape.width + kept + unscaled),
      // Left sides of products, packed, and scores of attention come last.
      inHand: rows * ((shape.isParallel ? 5 : 4) * shape.width + (shape.isGrouped ? attention : 0) + inner + wide + routed + beside + crossed) + rows * max(inner, wide)
        + size.threads * 2 * 64 * size.length + (distances ?? 0))
  }
}

extension TransformerWeights {
  var parts: NetworkParts {
    let own = distinctLayers
    var parts = NetworkParts(
      layers: (embeddingProjection.map { [$0] } ?? []) + own.flatMap(\.linears), attention: own.flatMap(\.attention),
      mlp: own.flatMap(\.mlp), idle: idle, embeddings: [tokens, positions, tokenTypes, relative?.table, positionBias?.table].compactMap { $0 },
      norms: own.flatMap(\.norms) + [embeddingNorm, relative?.norm, finalNorm].compactMap { $0 })
    parts.looseVectors = own.compactMap(\.sinks)
    return parts
  }
}
