import NibbleCore

extension ModelFamily {
  /// GPT-2, whose linear layers are stored [in, out].
  static let gpt2: ModelFamily? = {
    var family = try? ModelFamily(
      "GPT-2", runs: ["gpt2"], linear: #"(?!)"#,
      heads: #"^(score|classifier|qa_outputs|multiple_choice_head\.summary)\.weight$"#, tiedHeads: ["lm_head"],
      prefix: { _ in "transformer." })
    family?.conv1D = try? Pattern(#"(^|\.)h\.\d+\.((attn|crossattention)\.(c_attn|q_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight$"#)
    let linear: [LlamaCppNames.Pair] = [
      ("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"),
    ]
    let norms: [LlamaCppNames.Pair] = [("ln_1", "attn_norm"), ("ln_2", "ffn_norm")]
    var names = LlamaCppNames(
      ["gpt2"], architecture: "gpt2", prefix: "transformer.", layers: "h.",
      inLayer: linear + norms,
      whole: [("wte", "token_embd"), ("wpe", "position_embd"), ("ln_f", "output_norm")], heads: [("lm_head", "output")])
    names.transposed = Set(linear.map(\.gguf))
    names.dropped = [(try? Pattern(#"\.attn\.(masked_)?bias$"#), "llama.cpp has the causal mask in its code")]
    family?.llamaCpp = [names]
    return family
  }()
}
