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
    return family
  }()
}
