import NibbleCore

extension ModelFamily {
  /// GPT-NeoX and Pythia.
  static let gptNeoX: ModelFamily? = {
    var family = try? ModelFamily(
      "GPT-NeoX", runs: ["gpt_neox"],
      linear: #"(^|\.)layers\.\d+\.(attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight$"#,
      heads: #"^(score|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "gpt_neox." })
    var names = LlamaCppNames(
      ["gpt_neox"], architecture: "gptneox", prefix: "gpt_neox.", layers: "layers.",
      inLayer: [
        ("attention.query_key_value", "attn_qkv"), ("attention.dense", "attn_output"), ("mlp.dense_h_to_4h", "ffn_up"),
        ("mlp.dense_4h_to_h", "ffn_down"), ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
      ],
      whole: [("embed_in", "token_embd"), ("final_layer_norm", "output_norm")], heads: [("embed_out", "output"), ("lm_head", "output")])
    // Files keep the name that transformers' module no longer has.
    family?.respelled = [("lm_head", "embed_out")]
    // The query, key and value of a head follow one another.
    names.fusedHeads = { (try LlamaCppNames.heads($0).queries, [1, 1, 1]) }
    names.takesAdapters = false
    names.dropped = [
      LlamaCppNames.frequencies, (try? Pattern(#"\.attention\.(masked_)?bias$"#), "llama.cpp has the causal mask in its code"),
    ]
    family?.llamaCpp = [names]
    return family
  }()
}
