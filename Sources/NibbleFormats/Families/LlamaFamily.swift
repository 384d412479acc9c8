import NibbleCore

extension ModelFamily {
  /// Llama and what shares its module names; checked against transformers for each type listed.
  static let llama: ModelFamily? = {
    var family = try? ModelFamily(
      "Llama",
      runs: [
        "llama", "mistral", "ministral", "qwen2", "qwen3", "smollm3", "olmo2", "olmo3", "gemma", "gemma2", "gemma3_text", "granite",
        "granitemoehybrid", "ministral3", "qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text",
      ],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj|shared_mlp\.(input|output)_linear)\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    // Heads for questions call it so.
    family?.otherPrefixes = ["transformer."]
    family?.llamaCpp = llamaCppNames
    return family
  }()

  private static let llamaCppNames: [LlamaCppNames] = {
    let linear: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
      ("self_attn.o_proj", "attn_output"),
      ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
    ]
    let headNorms: [LlamaCppNames.Pair] = [("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm")]
    let normsBefore: [LlamaCppNames.Pair] = [("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")]
    let normsAfter: [LlamaCppNames.Pair] = [
      ("post_attention_layernorm", "post_attention_norm"), ("post_feedforward_layernorm", "post_ffw_norm"),
    ]
    let normsAround: [LlamaCppNames.Pair] = [("input_layernorm", "attn_norm"), ("pre_feedforward_layernorm", "ffn_norm")]

    func names(
      _ types: [String], as architecture: String? = nil, _ norms: [LlamaCppNames.Pair], interleaved: Bool = false, plusOne: Bool = false, hasHead: Bool = true,
      hasBiases: Bool = false
    ) -> LlamaCppNames {
      var names = LlamaCppNames(
        types, architecture: architecture ?? types[0], prefix: "model.", layers: "layers.", inLayer: linear + norms,
        whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: hasHead ? [("lm_head", "output")] : [])
      names.isInterleaved = interleaved
      names.normsAddOne = plusOne
      if !hasBiases { names.withoutBias = ["attn_output", "ffn_gate", "ffn_up", "ffn_down"] }
      names.dropped = [LlamaCppNames.frequencies]
      if !hasHead {
        names.dropped.append((try? Pattern(#"^lm_head\.weight$"#), "llama.cpp takes the embedding for the head"))
      }
      return names
    }
    var granite4 = LlamaCppNames(
      ["granitemoehybrid"], architecture: "granite", prefix: "model.", layers: "layers.",
      inLayer: linear.prefix(4) + normsBefore + [
        ("shared_mlp.gate", "ffn_gate"), ("shared_mlp.up", "ffn_up"), ("shared_mlp.output_linear", "ffn_down"),
      ], whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
    granite4.halves = ("shared_mlp.input_linear", "shared_mlp.gate", "shared_mlp.up")
    granite4.isInterleaved = true
    granite4.dropped = [LlamaCppNames.frequencies]
    return [
      names(["llama", "mistral"], normsBefore, interleaved: true, hasBiases: true), names(["granite"], normsBefore, interleaved: true, hasBiases: true),
      names(["smollm3"], normsBefore, interleaved: true), names(["qwen2"], normsBefore), names(["qwen3"], normsBefore + headNorms),
      names(["gemma"], normsBefore, plusOne: true, hasHead: false), names(["gemma2"], normsAround + normsAfter, plusOne: true, hasHead: false),
      names(["gemma3_text"], as: "gemma3", normsAround + normsAfter + headNorms, plusOne: true),
      names(["olmo2"], normsAfter + headNorms), names(["olmo3"], as: "olmo2", normsAfter + headNorms),
      names(["ministral3"], as: "mistral3", normsBefore, interleaved: true), names(["mistral"], as: "mistral3", normsBefore, interleaved: true), granite4,
    ]
  }()
}
