import NibbleCore

extension ModelFamily {
  /// Qwen2-MoE: Llama's names, experts, which files hold one by one, and one that every token takes, with a gate.
  static let qwen2Moe: ModelFamily? = {
    var family = try? ModelFamily(
      "Qwen2-MoE", runs: ["qwen2_moe"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.((experts\.\d+|shared_expert)\.)?(gate|up|down)_proj|mlp\.shared_expert_gate)\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    family?.otherPrefixes = ["transformer."]
    // transformers stacks the experts of a layer into parameters of its own.
    family?.beyondBitsAndBytes = try? Pattern(#"\.experts\.\d+\."#)
    family?.joinsExperts = false
    let ours: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
      ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"), ("mlp.gate", "ffn_gate_inp"),
      ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"), ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
      ("mlp.shared_expert.up_proj", "ffn_up_shexp"), ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ]
    var names = LlamaCppNames(
      ["qwen2_moe"], architecture: "qwen2moe", prefix: "model.", layers: "layers.", inLayer: ours,
      whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
    names.experts = .init(
      path: "mlp.experts.", modules: [("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"), ("down_proj", "ffn_down_exps")])
    names.ofOneRow = ["ffn_gate_inp_shexp"]
    names.dropped = [LlamaCppNames.frequencies]
    names.withoutBias = ["attn_output"]
    family?.llamaCpp = [names]
    return family
  }()
}
