extension ModelFamily {
  /// BERT's and RoBERTa's encoders.
  static let bert = try? ModelFamily(
    "BERT", runs: ["bert", "roberta", "xlm-roberta", "camembert"],
    linear:
      #"(^|\.)layer\.\d+\.((attention|crossattention)\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)\.weight$"#
      + #"|(^|\.)pooler\.dense\.weight$|^cls\.predictions\.transform\.dense\.weight$|^lm_head\.dense\.weight$"#,
    heads: #"^(classifier(\.dense|\.out_proj)?|qa_outputs|cls\.seq_relationship)\.weight$"#,
    tiedHeads: ["cls.predictions.decoder", "lm_head.decoder"], prefix: { $0 == "bert" ? "bert." : "roberta." })
}
