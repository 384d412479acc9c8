import NibbleCore

extension ModelFamily {
  static let distilBert: ModelFamily? = try? ModelFamily(
    "DistilBERT", runs: ["distilbert"],
    linear: #"(^|\.)layer\.\d+\.(attention\.(q|k|v|out)_lin|ffn\.lin[12])\.weight$|^(pre_classifier|vocab_transform)\.weight$"#,
    heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["vocab_projector"], prefix: { _ in "distilbert." })
}
