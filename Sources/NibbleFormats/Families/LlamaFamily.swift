extension ModelFamily {
  /// Llama and what shares its module names; checked against transformers for each type listed.
  static let llama: ModelFamily? = {
    var family = try? ModelFamily(
      "Llama", runs: ["llama", "mistral", "qwen2"], packsOnly: ["qwen3", "gemma", "gemma2", "granite", "olmo2", "smollm3"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    family?.llamaCpp = LlamaCppNames(
      modelTypes: ["llama", "mistral", "granite", "smollm3", "qwen2", "qwen3", "gemma", "gemma2", "olmo2"],
      interleaved: ["llama", "mistral", "granite", "smollm3"], architectures: ["mistral": "llama"], layers: "model.layers.",
      inLayer: [
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
      ],
      whole: [("model.embed_tokens", "token_embd"), ("lm_head", "output")])
    return family
  }()
}
