import NibbleCore

extension ModelFamily {
  /// StarCoder2 and Phi-2: Llama's names, with a plain MLP.
  static let plain = try? ModelFamily(
    "StarCoder2", runs: ["starcoder2", "phi"],
    linear: #"(^|\.)layers\.\d+\.(self_attn\.([qkvo]_proj|dense)|mlp\.(c_fc|c_proj|fc1|fc2))\.weight$"#,
    heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
}
