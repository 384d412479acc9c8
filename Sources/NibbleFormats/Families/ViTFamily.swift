import NibbleCore

extension ModelFamily {
  /// Vision transformers and DeiT. Files keep the names of transformers 4, whose modules have others since.
  static let vit: ModelFamily? = {
    var family = try? ModelFamily(
      "ViT", runs: ["vit", "deit"],
      linear: #"(^|\.)layer\.\d+\.(attention\.(attention\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)\.weight$"#
        + #"|(^|\.)layers\.\d+\.(attention\.[qkvo]_proj|mlp\.fc[12])\.weight$|(^|\.)pooler\.dense\.weight$"#,
      heads: #"^(classifier|cls_classifier|distillation_classifier)\.weight$"#, tiedHeads: [], prefix: { $0 + "." })
    family?.takesImages = true
    family?.respelled = [
      ("layers", "encoder.layer"), ("attention.q_proj", "attention.attention.query"), ("attention.k_proj", "attention.attention.key"),
      ("attention.v_proj", "attention.attention.value"), ("attention.o_proj", "attention.output.dense"), ("mlp.fc1", "intermediate.dense"),
      ("mlp.fc2", "output.dense"),
    ]
    return family
  }()
}
