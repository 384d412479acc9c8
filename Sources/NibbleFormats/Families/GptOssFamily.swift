import NibbleCore

extension ModelFamily {
  /// gpt-oss: Llama's names, and experts, which files stack.
  static let gptOss: ModelFamily? = {
    var family = try? ModelFamily(
      "gpt-oss", runs: ["gpt_oss"], linear: #"(^|\.)layers\.\d+\.self_attn\.[qkvo]_proj\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    let experts = try? Pattern(#"\.experts\.\d+\.(gate_up|down)_proj\.weight$"#)
    family?.conv1D = experts
    family?.beyondBitsAndBytes = experts
    family?.stackedExperts = ["gate_up_proj", "down_proj"]
    var names = LlamaCppNames(
      ["gpt_oss"], architecture: "gpt-oss", prefix: "model.", layers: "layers.",
      inLayer: [
        ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
        ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm"), ("mlp.router", "ffn_gate_inp"),
      ],
      whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
    names.parameters = [("self_attn.sinks", "attn_sinks.weight")]
    names.experts = .init(
      path: "mlp.experts.", modules: [("gate_proj", "ffn_gate_exps"), ("up_proj", "ffn_up_exps"), ("down_proj", "ffn_down_exps")],
      hasBiases: true, joined: (whole: "gate_up_proj", first: "gate_proj", second: "up_proj"))
    names.transposed = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"]
    names.dropped = [LlamaCppNames.frequencies]
    family?.llamaCpp = [names]
    return family
  }()
}
