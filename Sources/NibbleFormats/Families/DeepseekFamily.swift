import NibbleCore

extension ModelFamily {
  /// DeepSeek-V2 and V3, with attention through latents, and GLM-4.5: experts, which files hold one by one, and one that every token takes.
  static let deepseek: ModelFamily? = {
    var family = try? ModelFamily(
      "DeepSeek", runs: ["deepseek_v2", "deepseek_v3", "glm4_moe"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.(q(_[ab])?|kv_b|[kvo])_proj|self_attn\.kv_a_proj_with_mqa|mlp\.((experts\.\d+|shared_experts)\.)?(gate|up|down)_proj)\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    family?.otherPrefixes = ["transformer."]
    // transformers stacks the experts of a layer into parameters of its own.
    family?.beyondBitsAndBytes = try? Pattern(#"\.experts\.\d+\."#)
    family?.llamaCpp = [glm4MoeNames, deepseekNames("deepseek_v2"), deepseekNames("deepseek_v3")]
    return family
  }()

  /// What llama.cpp calls the experts, which the families have in common.
  private static func withExperts(_ names: LlamaCppNames) -> LlamaCppNames {
    var names = names
    names.parameters = [("mlp.gate.e_score_correction_bias", "exp_probs_b.bias")]
    names.experts = .init(
      path: "mlp.experts.", modules: [("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"), ("down_proj", "ffn_down_exps")])
    names.dropped = [LlamaCppNames.frequencies]
    names.withoutBias = ["attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"]
    return names
  }

  private static let feedForward: [LlamaCppNames.Pair] = [
    ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"), ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"), ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
  ]

  private static let predicting: [LlamaCppNames.Pair] = [
    ("eh_proj", "nextn.eh_proj"), ("embed_tokens", "nextn.embed_tokens"), ("enorm", "nextn.enorm"), ("hnorm", "nextn.hnorm"),
    ("shared_head.head", "nextn.shared_head_head"), ("shared_head.norm", "nextn.shared_head_norm"),
  ]

  private static func deepseekNames(_ type: String) -> LlamaCppNames {
    let attention: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.q_a_proj", "attn_q_a"), ("self_attn.q_a_layernorm", "attn_q_a_norm"),
      ("self_attn.q_b_proj", "attn_q_b"), ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"), ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
      ("self_attn.k_b_proj", "attn_k_b"), ("self_attn.v_b_proj", "attn_v_b"), ("self_attn.o_proj", "attn_output"),
      // Files of before have it whole.
      ("self_attn.kv_b_proj", "attn_kv_b"),
      ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
    ]
    var names = withExperts(LlamaCppNames(
      [type], architecture: "deepseek2", prefix: "model.", layers: "layers.", inLayer: attention + feedForward + predicting,
      whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")]))
    names.latent = .init(whole: "self_attn.kv_b_proj", keys: "self_attn.k_b_proj", values: "self_attn.v_b_proj")
    names.further = .leftOut
    names.takesAdapters = false
    names.withoutBias.formUnion(["attn_q_a", "attn_kv_a_mqa"])
    return names
  }

  private static let glm4MoeNames: LlamaCppNames = {
    let attention: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
      ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
      ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"),
    ]
    var names = withExperts(LlamaCppNames(
      ["glm4_moe"], architecture: "glm4moe", prefix: "model.", layers: "layers.", inLayer: attention + feedForward + predicting,
      whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")]))
    names.further = .kept
    return names
  }()
}
