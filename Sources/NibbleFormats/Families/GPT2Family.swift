import NibbleCore

extension ModelFamily {
  /// GPT-2, whose linear layers are stored [in, out].
  static let gpt2: ModelFamily? = {
    var family = try? ModelFamily(
      "GPT-2", runs: ["gpt2"], linear: #"(?!)"#,
      heads: #"^(score|classifier|qa_outputs|multiple_choice_head\.summary)\.weight$"#, tiedHeads: ["lm_head"],
      prefix: { _ in "transformer." })
    family?.conv1D = try? Pattern(#"(^|\.)h\.\d+\.((attn|crossattention)\.(c_attn|q_attn|c_proj)|mlp\.(c_fc|c_proj))\.weight$"#)
    family?.llamaCpp = LlamaCppNames(
      modelTypes: ["gpt2"], layers: "transformer.h.",
      inLayer: [
        ("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"),
      ],
      whole: [("transformer.wte", "token_embd"), ("lm_head", "output")])
    return family
  }()
}
