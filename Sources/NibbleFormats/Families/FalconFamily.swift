import NibbleCore

extension ModelFamily {
  /// Falcon, whose linear layers are of a class of its own.
  static let falcon: ModelFamily? = {
    var family = try? ModelFamily(
      "Falcon", runs: ["falcon"],
      linear: #"(^|\.)h\.\d+\.(self_attention\.(query_key_value|dense)|mlp\.dense_(h_to_4h|4h_to_h))\.weight$"#,
      heads: #"^(score|classifier|qa_outputs)\.weight$"#, tiedHeads: ["lm_head"], prefix: { _ in "transformer." })
    family?.isInBitsAndBytes = false
    let layer: [LlamaCppNames.Pair] = [
      ("self_attention.query_key_value", "attn_qkv"), ("self_attention.dense", "attn_output"), ("mlp.dense_h_to_4h", "ffn_up"),
      ("mlp.dense_4h_to_h", "ffn_down"),
    ]
    // What a layer calls its norms depends on how many it has.
    let norms: [LlamaCppNames.Pair] = [("input_layernorm", "attn_norm"), ("ln_mlp", "attn_norm"), ("ln_attn", "attn_norm_2")]
    var names = LlamaCppNames(
      ["falcon"], architecture: "falcon", prefix: "transformer.", layers: "h.", inLayer: layer + norms,
      whole: [("word_embeddings", "token_embd"), ("ln_f", "output_norm")], heads: [("lm_head", "output")])
    names.fusedHeads = falconHeads
    names.takesAdapters = false
    family?.llamaCpp = [names]
    return family
  }()

  /// Groups of queries with a key and a value.
  private static let falconHeads: @Sendable (JSON?) throws -> (groups: Int, parts: [Int]) = { config in
    let queries = try LlamaCppNames.heads(config).queries
    let groups = try LlamaCppNames.falconKeys(config)
    guard queries % groups == 0 else {
      throw NibbleError.badInput("num_attention_heads \(queries) is no multiple of num_kv_heads \(groups)")
    }
    return (groups, [queries / groups, 1, 1])
  }
}

extension LlamaCppNames {
  /// Heads of keys of a Falcon.
  ///
  /// - Throws: `.badInput`
  static func falconKeys(_ config: JSON?) throws -> Int {
    let queries = try heads(config).queries
    if config?["new_decoder_architecture"]?.bool != true { return config?["multi_query"]?.bool == false ? queries : 1 }
    let keys = config?["num_kv_heads"]?.int ?? queries
    guard (1...queries).contains(keys) else { throw NibbleError.badInput("num_kv_heads is \(keys)") }
    return keys
  }
}
