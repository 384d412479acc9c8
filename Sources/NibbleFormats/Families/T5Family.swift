import NibbleCore

extension ModelFamily {
  /// T5 and mT5. transformers keeps the last layer of every MLP as it is.
  static let t5: ModelFamily? = {
    var family = try? ModelFamily(
      "T5", runs: ["t5", "mt5"],
      linear: #"(^|\.)block\.\d+\.layer\.\d+\.((SelfAttention|EncDecAttention)\.[qkvo]|DenseReluDense\.(wi|wi_0|wi_1|wo))\.weight$"#,
      heads: #"^(classification_head\.(dense|out_proj)|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "transformer." })
    family?.beyondBitsAndBytes = try? Pattern(#"\.wo\.weight$"#)
    return family
  }()
}
