import NibbleCore

extension ModelFamily {
  /// Llama 4, its text model: Llama's names, experts, which files stack, and one that every token takes.
  static let llama4: ModelFamily? = {
    var family = try? ModelFamily(
      "Llama 4", runs: ["llama4_text"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|feed_forward\.(shared_expert\.)?(gate|up|down)_proj)\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    let experts = try? Pattern(#"\.experts\.\d+\.(gate_up|down)_proj\.weight$"#)
    family?.conv1D = experts
    family?.beyondBitsAndBytes = experts
    family?.stackedExperts = ["gate_up_proj", "down_proj"]
    family?.partsPackedExperts = true
    family?.turnsExpertFactors = true
    var names = LlamaCppNames(
      ["llama4_text"], architecture: "llama4", prefix: "model.", layers: "layers.",
      inLayer: [
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
        ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("feed_forward.router", "ffn_gate_inp"),
        ("feed_forward.gate_proj", "ffn_gate"), ("feed_forward.up_proj", "ffn_up"), ("feed_forward.down_proj", "ffn_down"),
        ("feed_forward.shared_expert.gate_proj", "ffn_gate_shexp"), ("feed_forward.shared_expert.up_proj", "ffn_up_shexp"),
        ("feed_forward.shared_expert.down_proj", "ffn_down_shexp"),
      ],
      whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
    names.experts = .init(
      path: "feed_forward.experts.", modules: [("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"), ("down_proj", "ffn_down_exps")],
      joined: (whole: "gate_up_proj", first: "gate_proj", second: "up_proj"), takesTurns: false)
    names.transposed = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
    names.withoutBias = ["attn_output"]
    names.layersDiffer = true
    names.dropped = [LlamaCppNames.frequencies]
    family?.llamaCpp = [names]
    return family
  }()
}
