/// The projections of latent attention (DeepSeek-V2, arXiv:2405.04434): keys and values come from one narrow vector of a token, its latent,
/// and queries may come from another.
///
/// The key of a head is [a part of its own, a part that is turned to its position and that all heads share].
package struct LatentProjections: Sendable {
  /// From what the layer takes to a latent, and the norm of that.
  package struct Latent: Sendable {
    package var down: Linear
    package var norm: Norm

    package init(_ down: Linear, _ norm: Norm) { (self.down, self.norm) = (down, norm) }

    var size: Int { norm.weight.values.count }
  }

  /// nil where queries are projected from what the layer takes.
  package var queryLatent: Latent?
  package var query: Linear
  /// Behind the latent its first layer gives the part of the key that heads share.
  package var keyValueLatent: Latent
  /// For each head its own part of the key, then the value.
  package var keyValue: Linear

  /// Of the norms, whatever the configuration says of others.
  static let epsilon: Float = 1e-6

  package init(queryLatent: Latent?, query: Linear, keyValueLatent: Latent, keyValue: Linear) {
    (self.queryLatent, self.query, self.keyValueLatent, self.keyValue) = (queryLatent, query, keyValueLatent, keyValue)
  }

  package var linears: [Linear] { (queryLatent.map { [$0.down] } ?? []) + [query, keyValueLatent.down, keyValue] }
  package var norms: [Norm] { [queryLatent?.norm, keyValueLatent.norm].compactMap { $0 } }

  /// Numbers of a token's latents.
  var latents: Int { (queryLatent?.size ?? 0) + keyValueLatent.size }
  /// Numbers of a token between its first projections and attention.
  var inHand: Int { latents + query.outputs + keyValueLatent.down.outputs + keyValue.outputs }
}
