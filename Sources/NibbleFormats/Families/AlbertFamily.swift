import NibbleCore

extension ModelFamily {
  static let albert: ModelFamily? = try? ModelFamily(
    "ALBERT", runs: ["albert"],
    linear: #"(^|\.)albert_layers\.\d+\.(attention\.(query|key|value|dense)|ffn|ffn_output)\.weight$"#
      + #"|(^|\.)embedding_hidden_mapping_in\.weight$|(^|\.)pooler\.weight$|^predictions\.dense\.weight$"#,
    heads: #"^(classifier|qa_outputs|sop_classifier\.classifier)\.weight$"#, tiedHeads: ["predictions.decoder"],
    prefix: { _ in "albert." })
}
