import NibbleCompute
import NibbleCore

/// Latent attention of a decoder's layers, under DeepSeek's names.
struct DecoderLatent {
  /// Numbers of the latents; nil where queries have none.
  var queryRank: Int?, keyValueRank: Int
  /// Whether the first projections have biases.
  var hasBias: Bool

  /// Those of one layer.
  func projections(_ layer: DecoderLayer) throws -> LatentProjections {
    let shape = layer.shape, own = "self_attn."
    let queryLatent = try queryRank.map { rank in
      LatentProjections.Latent(
        try layer.linear(own + "q_a_proj", rank, shape.width, hasBias: hasBias), try layer.norm(own + "q_a_layernorm", rank))
    }
    return LatentProjections(
      queryLatent: queryLatent,
      query: try layer.linear(own + (queryRank == nil ? "q_proj" : "q_b_proj"), shape.queryWidth, queryRank ?? shape.width),
      keyValueLatent: .init(
        try layer.linear(
          own + "kv_a_proj_with_mqa", keyValueRank + shape.headSize - shape.unturned, shape.width, hasBias: hasBias),
        try layer.norm(own + "kv_a_layernorm", keyValueRank)),
      keyValue: try layer.linear(own + "kv_b_proj", shape.heads * (shape.unturned + shape.valueSize), keyValueRank))
  }
}
