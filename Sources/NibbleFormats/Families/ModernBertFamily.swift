import NibbleCore

extension ModelFamily {
  static let modernBert: ModelFamily? = try? ModelFamily(
    "ModernBERT", runs: ["modernbert"],
    linear: #"(^|\.)layers\.\d+\.(attn\.(Wqkv|Wo)|mlp\.(Wi|Wo))\.weight$|^head\.dense\.weight$"#,
    heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["decoder"], prefix: { _ in "model." })
}
