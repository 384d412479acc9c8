import NibbleCore

extension ModelFamily {
  /// Phi-3 and GLM-4: Llama's names, with one projection for gate and up, and Phi-3's for queries, keys and values.
  static let fused: ModelFamily? = {
    var family = try? ModelFamily(
      "Phi-3", runs: ["phi3", "glm", "glm4"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.(qkv|[qkvo])_proj|mlp\.(gate_up|down)_proj)\.weight$"#, heads: #"^(score|qa_outputs)\.weight$"#,
      tiedHeads: ["lm_head"], prefix: { _ in "model." })
    let linear: [LlamaCppNames.Pair] = [
      ("self_attn.o_proj", "attn_output"), ("mlp.gate_up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"), ("input_layernorm", "attn_norm"),
      ("post_attention_layernorm", "ffn_norm"),
    ]
    let three: [LlamaCppNames.Pair] = [("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v")]
    func names(_ type: String, _ architecture: String, _ more: [LlamaCppNames.Pair]) -> LlamaCppNames {
      var names = LlamaCppNames(
        [type], architecture: architecture, prefix: "model.", layers: "layers.", inLayer: linear + more,
        whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
      names.dropped = [LlamaCppNames.frequencies]
      return names
    }
    family?.llamaCpp = [
      names("phi3", "phi3", [("self_attn.qkv_proj", "attn_qkv")]), names("glm", "chatglm", three),
      names(
        "glm4", "glm4", three + [("post_self_attn_layernorm", "post_attention_norm"), ("post_mlp_layernorm", "post_ffw_norm")]),
    ]
    return family
  }()
}
