import NibbleCore

extension ModelFamily {
  /// gpt-oss: Llama's names, and experts, which files stack.
  static let gptOss: ModelFamily? = {
    var family = try? ModelFamily(
      "gpt-oss", runs: ["gpt_oss"], linear: #"(^|\.)layers\.\d+\.self_attn\.[qkvo]_proj\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    let experts = try? Pattern(#"\.experts\.\d+\.(gate_up|down)_proj\.weight$"#)
    family?.conv1D = experts
    family?.beyondBitsAndBytes = experts
    family?.stackedExperts = ["gate_up_proj", "down_proj"]
    return family
  }()
}
