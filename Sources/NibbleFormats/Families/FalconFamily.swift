import NibbleCore

extension ModelFamily {
  /// Falcon, whose linear layers are of a class of its own.
  static let falcon: ModelFamily? = {
    var family = try? ModelFamily(
      "Falcon", runs: ["falcon"],
      linear: #"(^|\.)h\.\d+\.(self_attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight$"#,
      heads: #"^(score|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "transformer." })
    family?.isInBitsAndBytes = false
    return family
  }()
}
