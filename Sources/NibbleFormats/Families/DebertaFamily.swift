import NibbleCore

extension ModelFamily {
  /// DeBERTa 2 and 3.
  static let deberta: ModelFamily? = {
    var family = plainDeberta
    // The head of DeBERTa's authors multiplies with the embedding's own weight, whatever a configuration says of ties.
    family?.embeddingScorer = { $0["legacy"]?.bool == false ? "lm_predictions.lm_head.weight" : nil }
    return family
  }()

  private static let plainDeberta: ModelFamily? = try? ModelFamily(
    "DeBERTa", runs: ["deberta-v2"],
    linear: #"(^|\.)layer\.\d+\.(attention\.(self\.(query|key|value|pos_key|pos_query)_proj|output\.dense)|(intermediate|output)\.dense)\.weight$"#
      // transformers calls `lm_predictions.lm_head.dense` the output embedding, and leaves it as it is.
      + #"|^pooler\.dense\.weight$|^cls\.predictions\.transform\.dense\.weight$"#,
    heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["cls.predictions.decoder"], prefix: { _ in "deberta." })
}
