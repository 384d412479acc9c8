import NibbleCore

extension ModelFamily {
  static let electra: ModelFamily? = try? ModelFamily(
    "ELECTRA", runs: ["electra"],
    linear:
      #"(^|\.)layer\.\d+\.((attention|crossattention)\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)\.weight$"#
      + #"|(^|\.)embeddings_project\.weight$|^discriminator_predictions\.dense\.weight$|^generator_predictions\.dense\.weight$"#,
    heads: #"^(classifier(\.dense|\.out_proj)?|qa_outputs|discriminator_predictions\.dense_prediction|sequence_summary\.summary)\.weight$"#,
    tiedHeads: ["generator_lm_head"], prefix: { _ in "electra." })
}
