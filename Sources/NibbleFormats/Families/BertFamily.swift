import NibbleCore

extension ModelFamily {
  /// BERT's and RoBERTa's encoders.
  static let bert: ModelFamily? = {
    var family = try? ModelFamily(
      "BERT", runs: ["bert", "roberta", "xlm-roberta", "camembert"],
      linear:
        #"(^|\.)layer\.\d+\.((attention|crossattention)\.(self\.(query|key|value)|output\.dense)|(intermediate|output)\.dense)\.weight$"#
        + #"|(^|\.)pooler\.dense\.weight$|^cls\.predictions\.transform\.dense\.weight$|^lm_head\.dense\.weight$"#,
      heads: #"^(classifier(\.dense|\.out_proj)?|qa_outputs|cls\.seq_relationship)\.weight$"#,
      tiedHeads: ["cls.predictions.decoder", "lm_head.decoder"], prefix: { $0 == "bert" ? "bert." : "roberta." })
    family?.llamaCpp = llamaCppNames
    return family
  }()

  private static let llamaCppNames: [LlamaCppNames] = {
    let layer: [LlamaCppNames.Pair] = [
      ("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"), ("attention.self.value", "attn_v"),
      ("attention.output.dense", "attn_output"), ("attention.output.LayerNorm", "attn_output_norm"),
      ("intermediate.dense", "ffn_up"), ("output.dense", "ffn_down"), ("output.LayerNorm", "layer_output_norm"),
    ]
    let embeddings: [LlamaCppNames.Pair] = [
      ("embeddings.word_embeddings", "token_embd"), ("embeddings.position_embeddings", "position_embd"),
      ("embeddings.token_type_embeddings", "token_types"), ("embeddings.LayerNorm", "token_embd_norm"),
    ]
    let counted = (try? Pattern(#"(^|\.)embeddings\.position_ids$"#), "llama.cpp counts positions itself")
    let unpooled = (try? Pattern(#"(^|\.)pooler\.dense\."#), "llama.cpp has no pooler without a classification head")
    func encoder(
      _ types: [String], prefix: String, pooler: [LlamaCppNames.Pair] = [], heads: [LlamaCppNames.Pair], lost: String
    ) -> LlamaCppNames {
      var names = LlamaCppNames(
        types, architecture: "bert", prefix: prefix, layers: "encoder.layer.", inLayer: layer, whole: embeddings + pooler, heads: heads)
      names.takesAdapters = false
      names.dropped = [counted, unpooled, (try? Pattern(lost), "llama.cpp has no head that predicts tokens for this architecture")]
      return names
    }
    let head: [LlamaCppNames.Pair] = [("classifier.dense", "cls"), ("classifier.out_proj", "cls.output")]
    func roberta(_ type: String) -> LlamaCppNames {
      var names = encoder([type], prefix: "roberta.", heads: head, lost: #"^lm_head\."#)
      names.cutsPositions = true
      return names
    }
    return [
      // A layer, tanh, and the classes: llama.cpp has the pooler where a head needs it.
      encoder(
        ["bert"], prefix: "bert.", pooler: [("pooler.dense", "cls")], heads: [("classifier", "cls.output")],
        lost: #"^cls\.(predictions|seq_relationship)\."#),
      roberta("roberta"), roberta("xlm-roberta"),
    ]
  }()
}
