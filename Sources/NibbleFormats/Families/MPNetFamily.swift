import NibbleCore

extension ModelFamily {
  static let mpNet: ModelFamily? = try? ModelFamily(
    "MPNet", runs: ["mpnet"],
    linear: #"(^|\.)layer\.\d+\.(attention\.attn\.[qkvo]|(intermediate|output)\.dense)\.weight$|(^|\.)pooler\.dense\.weight$"#
      + #"|^classifier\.dense\.weight$|^lm_head\.dense\.weight$"#,
    heads: #"^(classifier(\.out_proj)?|qa_outputs)\.weight$"#, tiedHeads: ["lm_head.decoder"], prefix: { _ in "mpnet." })
}
