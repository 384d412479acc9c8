import NibbleCore

extension ModelFamily {
  /// Phi-3 and GLM-4: Llama's names, with one projection for gate and up, and Phi-3's for queries, keys and values.
  static let fused = try? ModelFamily(
    "Phi-3", runs: ["phi3", "glm", "glm4"],
    linear: #"(^|\.)layers\.\d+\.(self_attn\.(qkv|[qkvo])_proj|mlp\.(gate_up|down)_proj)\.weight$"#, heads: #"^(score|qa_outputs)\.weight$"#,
    tiedHeads: ["lm_head"], prefix: { _ in "model." })
}
