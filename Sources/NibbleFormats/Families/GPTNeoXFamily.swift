import NibbleCore

extension ModelFamily {
  /// GPT-NeoX and Pythia.
  static let gptNeoX = try? ModelFamily(
    "GPT-NeoX", runs: ["gpt_neox"],
    linear: #"(^|\.)layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight$"#,
    heads: #"^(score|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "gpt_neox." })
}
