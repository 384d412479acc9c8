import NibbleCompute

/// What attention over latents multiplies with in the place of keys and values: rows of the projection that expands latents, where they lie.
///
/// With the key of a head K · c and its value V · c, c the latent, a score q · K · c is (Kᵀ · q) · c, and what is seen of the values is V times what is
/// seen of the latents.
struct LatentHeads {
  /// Kᵀ of each head.
  let keys: [Matrix]
  /// V of each head.
  let values: [Matrix]
  /// Numbers of a latent.
  let rank: Int

  private init?(_ latent: LatentProjections, _ shape: TransformerShape) {
    guard latent.keyValue.bias == nil else { return nil }
    var (keys, values): ([Matrix], [Matrix]) = ([], [])
    for head in 0..<shape.heads {
      let first = head * (shape.unturned + shape.valueSize), middle = first + shape.unturned
      guard let key = latent.keyValue.matrix.part(first..<middle), let value = latent.keyValue.matrix.part(middle..<middle + shape.valueSize)
      else { return nil }
      keys.append(key.turned)
      values.append(value)
    }
    (self.keys, self.values, rank) = (keys, values, latent.keyValueLatent.size)
  }

  /// Those of all layers; nil where a layer has none, or other latents than the first.
  static func all(of weights: TransformerWeights, _ shape: TransformerShape) -> [LatentHeads]? {
    guard weights.layers.first?.latent != nil, weights.relative == nil, weights.positionBias == nil else { return nil }
    var all: [LatentHeads] = []
    for layer in weights.layers {
      guard let own = layer.latent.flatMap({ LatentHeads($0, shape) }), own.rank == all.first?.rank ?? own.rank else { return nil }
      all.append(own)
    }
    return all
  }

  /// Up to how many new tokens attention looks at latents: with more it costs less to expand those of all tokens, once.
  func most(_ shape: TransformerShape) -> Int {
    let expanding = rank * (shape.unturned + shape.valueSize), more = 2 * rank - shape.unturned - shape.valueSize
    return more > 0 ? max(expanding / more, 1) : Int.max
  }
}
