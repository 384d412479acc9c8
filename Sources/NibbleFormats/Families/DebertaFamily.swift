import NibbleCore

extension ModelFamily {
  /// DeBERTa 2 and 3.
  static let deberta: ModelFamily? = try? ModelFamily(
    "DeBERTa", runs: ["deberta-v2"],
    linear: #"(^|\.)layer\.\d+\.(attention\.(self\.(query|key|value|pos_key|pos_query)_proj|output\.dense)|(intermediate|output)\.dense)\.weight$"#
      + #"|^pooler\.dense\.weight$|^cls\.predictions\.transform\.dense\.weight$|^lm_predictions\.lm_head\.dense\.weight$"#,
    heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["cls.predictions.decoder"], prefix: { _ in "deberta." })
}
