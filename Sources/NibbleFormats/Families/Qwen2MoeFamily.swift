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
    return family
  }()
}
