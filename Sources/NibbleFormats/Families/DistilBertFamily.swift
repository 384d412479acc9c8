import NibbleCore

extension ModelFamily {
  static let distilBert: ModelFamily? = {
    var family = try? ModelFamily(
      "DistilBERT", runs: ["distilbert"],
      linear: #"(^|\.)layer\.\d+\.(attention\.(q|k|v|out)_lin|ffn\.lin[12])\.weight$|^(pre_classifier|vocab_transform)\.weight$"#,
      heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["vocab_projector"], prefix: { _ in "distilbert." })
    // Without a head for classes: before them llama.cpp has tanh, and the model relu.
    var names = LlamaCppNames(
      ["distilbert"], architecture: "bert", prefix: "distilbert.", layers: "transformer.layer.",
      inLayer: [
        ("attention.q_lin", "attn_q"), ("attention.k_lin", "attn_k"), ("attention.v_lin", "attn_v"), ("attention.out_lin", "attn_output"),
        ("sa_layer_norm", "attn_output_norm"), ("ffn.lin1", "ffn_up"), ("ffn.lin2", "ffn_down"), ("output_layer_norm", "layer_output_norm"),
      ],
      whole: [
        ("embeddings.word_embeddings", "token_embd"), ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.LayerNorm", "token_embd_norm"),
      ])
    names.takesAdapters = false
    names.dropped = [
      (try? Pattern(#"(^|\.)embeddings\.position_ids$"#), "llama.cpp counts positions itself"),
      (try? Pattern(#"^vocab_"#), "llama.cpp has no head that predicts tokens for this architecture"),
    ]
    family?.llamaCpp = [names]
    return family
  }()
}
