import NibbleCore

extension ModelFamily {
  /// T5 and mT5. transformers keeps the last layer of every MLP as it is.
  static let t5: ModelFamily? = {
    var family = try? ModelFamily(
      "T5", runs: ["t5", "mt5"],
      linear: #"(^|\.)block\.\d+\.layer\.\d+\.((SelfAttention|EncDecAttention)\.[qkvo]|DenseReluDense\.(wi|wi_0|wi_1|wo))\.weight$"#,
      heads: #"^(classification_head\.(dense|out_proj)|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "transformer." })
    family?.beyondBitsAndBytes = try? Pattern(#"\.wo\.weight$"#)
    family?.llamaCpp = [llamaCppNames]
    return family
  }()

  private static let llamaCppNames: LlamaCppNames = {
    func attention(_ path: String, _ gguf: String) -> [LlamaCppNames.Pair] {
      ["q", "k", "v", "o"].map { (path + "." + $0, gguf + "_" + $0) } + [(path + ".relative_attention_bias", gguf + "_rel_b")]
    }
    func feedForward(_ layer: String) -> [LlamaCppNames.Pair] {
      let path = layer + ".DenseReluDense."
      return [(layer + ".layer_norm", "ffn_norm"), (path + "wi_0", "ffn_gate"), (path + "wi", "ffn_up"), (path + "wi_1", "ffn_up"), (path + "wo", "ffn_down")]
    }
    let own = attention("layer.0.SelfAttention", "attn") + [("layer.0.layer_norm", "attn_norm")]
    let cross = attention("layer.1.EncDecAttention", "cross_attn") + [("layer.1.layer_norm", "cross_attn_norm")]
    var names = LlamaCppNames(
      ["t5", "mt5"], architecture: "t5", prefix: "", layers: "", inLayer: [],
      whole: [("shared", "token_embd"), ("encoder.final_layer_norm", "enc.output_norm"), ("decoder.final_layer_norm", "dec.output_norm")],
      heads: [("lm_head", "output")])
    names.stacks = [
      .init(layers: "encoder.block.", gguf: "enc.blk.", inLayer: own + feedForward("layer.1"), count: ["num_layers", "num_hidden_layers"]),
      .init(layers: "decoder.block.", gguf: "dec.blk.", inLayer: own + cross + feedForward("layer.2"), count: ["num_decoder_layers", "num_layers"]),
    ]
    names.takesAdapters = false
    names.dropped = [(try? Pattern(#"^(en|de)coder\.embed_tokens\.weight$"#), "llama.cpp has one table of tokens for both")]
    return names
  }()
}
