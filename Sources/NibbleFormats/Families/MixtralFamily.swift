import NibbleCore

extension ModelFamily {
  /// Mixtral, Qwen3-MoE and OLMoE: Llama's names, and experts, which files hold one by one.
  static let mixtral: ModelFamily? = {
    var family = try? ModelFamily(
      "Mixtral", runs: ["mixtral", "qwen3_moe", "olmoe"],
      linear: #"(^|\.)layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(experts\.\d+\.)?(gate|up|down)_proj|block_sparse_moe\.experts\.\d+\.w[123])\.weight$"#,
      heads: #"^(score|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "model." })
    family?.otherPrefixes = ["transformer."]
    // transformers stacks the experts of a layer into parameters of its own.
    family?.beyondBitsAndBytes = try? Pattern(#"\.experts\.\d+\."#)
    let shared: [LlamaCppNames.Pair] = [
      ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"), ("self_attn.o_proj", "attn_output"),
      ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm"),
    ]
    let headNorms: [LlamaCppNames.Pair] = [("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm")]
    func names(_ type: String, _ architecture: String, _ more: [LlamaCppNames.Pair], in block: String, gate: String, up: String, down: String) -> LlamaCppNames {
      var names = LlamaCppNames(
        [type], architecture: architecture, prefix: "model.", layers: "layers.", inLayer: shared + more + [(block + ".gate", "ffn_gate_inp")],
        whole: [("embed_tokens", "token_embd"), ("norm", "output_norm")], heads: [("lm_head", "output")])
      names.experts = .init(path: block + ".experts.", modules: [(gate, "ffn_gate_exps"), (up, "ffn_up_exps"), (down, "ffn_down_exps")])
      names.dropped = [LlamaCppNames.frequencies]
      names.withoutBias = ["attn_output"]
      return names
    }
    var mixtral = names("mixtral", "llama", [], in: "block_sparse_moe", gate: "w1", up: "w3", down: "w2")
    mixtral.isInterleaved = true
    family?.llamaCpp = [
      mixtral, names("qwen3_moe", "qwen3moe", headNorms, in: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj"),
      names("olmoe", "olmoe", headNorms, in: "mlp", gate: "gate_proj", up: "up_proj", down: "down_proj"),
    ]
    return family
  }()

  /// The name that transformers has for a module or parameter of a layer's experts since it stacks them: Mixtral's files keep the old one.
  package static func withNewExperts(_ name: String) -> String {
    guard name.contains(".block_sparse_moe.") else { return name }
    let leaves = ["w1": "gate_proj", "w3": "up_proj", "w2": "down_proj"]
    var parts = name.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    for index in parts.indices {
      if parts[index] == "block_sparse_moe" { parts[index] = "mlp" }
      if index > 1, parts[index - 2] == "experts", let new = leaves[parts[index]] { parts[index] = new }
    }
    return parts.joined(separator: ".")
  }
}
