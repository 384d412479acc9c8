import NibbleCore

extension ModelFamily {
  /// StarCoder2 and Phi-2: Llama's names, with a plain MLP.
  static let plain: ModelFamily? = {
    var family = try? ModelFamily(
      "StarCoder2", runs: ["starcoder2", "phi"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.([qkvo]_proj|dense)|mlp\.(c_fc|c_proj|fc1|fc2))\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    let shared: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("input_layernorm", "attn_norm"),
    ]
    func names(_ type: String, _ architecture: String, _ more: [LlamaCppNames.Pair], norm: String) -> LlamaCppNames {
      var names = LlamaCppNames(
        [type], architecture: architecture, prefix: "model.", layers: "layers.", inLayer: shared + more,
        whole: [("embed_tokens", "token_embd"), (norm, "output_norm")], heads: [("lm_head", "output")])
      names.dropped = [LlamaCppNames.frequencies]
      return names
    }
    family?.llamaCpp = [
      names(
        "starcoder2", "starcoder2",
        [
          ("self_attn.o_proj", "attn_output"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"), ("post_attention_layernorm", "ffn_norm"),
        ], norm: "norm"),
      names("phi", "phi2", [("self_attn.dense", "attn_output"), ("mlp.fc1", "ffn_up"), ("mlp.fc2", "ffn_down")], norm: "final_layernorm"),
    ]
    return family
  }()
}
