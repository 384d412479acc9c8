import NibbleCore

extension ModelFamily {
  static let modernBert: ModelFamily? = {
    var family = try? ModelFamily(
      "ModernBERT", runs: ["modernbert"],
      linear: #"(^|\.)layers\.\d+\.(attn\.(Wqkv|Wo)|mlp\.(Wi|Wo))\.weight$|^head\.dense\.weight$"#,
      heads: #"^(classifier|qa_outputs)\.weight$"#, tiedHeads: ["decoder"], prefix: { _ in "model." })
    let norms: [LlamaCppNames.Pair] = [("attn_norm", "attn_norm"), ("mlp_norm", "ffn_norm")]
    var names = LlamaCppNames(
      ["modernbert"], architecture: "modern-bert", prefix: "model.", layers: "layers.",
      inLayer: [("attn.Wqkv", "attn_qkv"), ("attn.Wo", "attn_output"), ("mlp.Wi", "ffn_up"), ("mlp.Wo", "ffn_down")] + norms,
      whole: [("embeddings.tok_embeddings", "token_embd"), ("embeddings.norm", "token_embd_norm"), ("final_norm", "output_norm")],
      heads: [("head.dense", "cls"), ("head.norm", "cls.norm"), ("classifier", "cls.output")])
    names.takesAdapters = false
    names.dropped = [
      (try? Pattern(#"^(head|decoder)\."#), "llama.cpp has no head that predicts tokens for this architecture")
    ]
    // Its first layer has the embedding's norm for its own.
    names.firstLayerLacks = ["attn_norm"]
    family?.llamaCpp = [names]
    return family
  }()
}
