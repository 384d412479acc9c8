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
