import NibbleCore

/// Routers of DeepSeek's kind, which other families have, too.
extension GgufConfigReader {
  /// Layers behind the last, which predict further tokens, of so many in all.
  mutating func furtherLayers(_ type: String, of layers: Int) throws -> Int {
    guard LlamaCppNames.of(modelType: type)?.further ?? .refused != .refused else { return 0 }
    let count = try whole("nextn_predict_layers") ?? 0
    guard count < layers, count <= 64 else { throw fail(key("nextn_predict_layers"), "fewer than \(layers) layers") }
    set("num_nextn_predict_layers", count)
    return count
  }

  mutating func addGlm4Moe() throws {
    try addRouter()
    set("use_qk_norm", .bool(tensors["blk.0.attn_q_norm.weight"] != nil))
    if let function = try whole("expert_gating_func"), function != 0, function != 2 { refuse("expert_gating_func") }
  }

  mutating func addDeepseek(_ type: String) throws {
    let heads = try needed("attention.head_count"), layers = try layerCount(), turned = try needed("rope.dimension_count")
    // Files of before have the heads as they are, under other keys, and keys of their own for each of them.
    let isWhole = file.metadata[key("attention.key_length_mla")] == nil, suffix = isWhole ? "" : "_mla"
    let size = try needed("attention.key_length" + suffix), rank = try needed("attention.kv_lora_rank")
    guard size > turned else { throw fail(key("attention.key_length" + suffix), "more than the \(turned) numbers that are turned") }
    _ = (key("attention.key_length"), key("attention.value_length"), key("attention.head_count_kv"))
    set("architectures", JSON([(type == "deepseek_v2" ? "DeepseekV2" : "DeepseekV3") + "ForCausalLM"]))
    set("hidden_size", try needed("embedding_length"))
    set("intermediate_size", try needed("feed_forward_length"))
    set("num_hidden_layers", layers - (try furtherLayers(type, of: layers)))
    set("num_attention_heads", heads)
    set("num_key_value_heads", heads)
    set("max_position_embeddings", try needed("context_length"))
    set("rms_norm_eps", try decimal("attention.layer_norm_rms_epsilon"))
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
    set("hidden_act", "silu")
    let queries = try whole("attention.q_lora_rank") ?? 0
    set("q_lora_rank", queries > 0 ? JSON(queries) : JSON.null)
    set("kv_lora_rank", rank)
    set("qk_rope_head_dim", turned)
    set("qk_nope_head_dim", size - turned)
    set("v_head_dim", try needed("attention.value_length" + suffix))
    set("n_routed_experts", try needed("expert_count"))
    set("num_experts_per_tok", try needed("expert_used_count"))
    try addRouter()
    let function = try whole("expert_gating_func") ?? 0, usual = type == "deepseek_v2" ? 1 : 2
    if type == "deepseek_v2" {
      set("topk_method", try whole("expert_group_count") ?? 1 > 1 ? "group_limited_greedy" : "greedy")
      if function != 0 { set("scoring_func", "softmax") }
    } else {
      set("scoring_func", "sigmoid")
    }
    if function != 0, function != usual { refuse("expert_gating_func") }
    try addRotation(type, size: turned)
    // llama.cpp's product of queries and keys has a temperature then, and the model's none.
    if try text("rope.scaling.type") == "linear" { refuse("rope.scaling.type") }
  }

  /// What YaRN's temperature is scaled with; the file has a tenth of it.
  mutating func latentTemperature(_ type: String) throws -> [(key: String, value: JSON)] {
    guard type.hasPrefix("deepseek") else { return [] }
    guard let tenth = try decimal("rope.scaling.yarn_log_multiplier"), tenth != 0 else {
      // llama.cpp's product of queries and keys has no temperature of the model's then.
      refuse("rope.scaling.type")
      return []
    }
    // The shortest number that it is a tenth of.
    let scale = (1...9).lazy.map { digits in (tenth * 10).rounded(toDigits: digits) }.first { Float(0.1 * $0) == Float(tenth) } ?? tenth * 10
    return [("mscale", JSON(scale)), ("mscale_all_dim", JSON(scale))]
  }

  /// Groups, what scales, and how many experts are one for all tokens.
  mutating func addRouter() throws {
    set("moe_intermediate_size", try needed("expert_feed_forward_length"))
    set("n_shared_experts", try needed("expert_shared_count"))
    set("first_k_dense_replace", try whole("leading_dense_block_count") ?? 0)
    let groups = max(1, try whole("expert_group_count") ?? 1)
    set("n_group", groups)
    let used = try whole("expert_group_used_count")
    set("topk_group", groups > 1 && used != nil ? try needed("expert_group_used_count") : 1)
    let scale = try decimal("expert_weights_scale") ?? 0
    // llama.cpp takes none for one.
    set("routed_scaling_factor", scale == 0 ? 1 : scale)
    let sum = key("expert_weights_norm")
    set("norm_topk_prob", .bool(file.bool(sum) ?? false))
  }
}

extension Double {
  /// With so many digits before and behind the point.
  fileprivate func rounded(toDigits digits: Int) -> Double {
    guard self != 0, isFinite else { return self }
    var scale = 1.0
    var size = magnitude
    while size >= 1, scale > 1e-30 { (size, scale) = (size / 10, scale / 10) }
    while size < 0.1, scale < 1e30 { (size, scale) = (size * 10, scale * 10) }
    for _ in 0..<digits { scale *= 10 }
    return (self * scale).rounded() / scale
  }
}
