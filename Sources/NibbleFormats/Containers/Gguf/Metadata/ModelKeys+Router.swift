import NibbleCore

/// Routers of DeepSeek's kind, which other families have, too: groups of experts, a scale, one that every token takes, and leading layers without.
extension ModelKeys {
  /// Among the usual keys.
  func writeRouter(_ out: inout GgufMetadata) throws {
    guard try config.firstWithExperts() != nil else { return }
    if picksGroups {
      if let groups = try config.u32(["n_group"]) { out[key("expert_group_count")] = .u32(groups) }
      if let groups = try config.u32(["topk_group"]) { out[key("expert_group_used_count")] = .u32(groups) }
    }
    let isSaid = config.config["scoring_func"]?.string != nil
    // llama.cpp takes a softmax for DeepSeek where nothing says it.
    if isSaid || architecture == "deepseek2" && hasSigmoids { out[key("expert_gating_func")] = .u32(hasSigmoids ? 2 : 1) }
  }

  /// Whether attention goes through latents.
  var isLatent: Bool { architecture == "deepseek2" }

  private var hasSigmoids: Bool { config.modelType != "deepseek_v2" }

  /// DeepSeek-V2 may have groups that it does not pick by.
  private var picksGroups: Bool { hasSigmoids || (try? config.u32(["n_group"])) ?? 1 < 2 }

  /// After what is usual.
  func writeDeepseek(_ out: inout GgufMetadata) throws {
    let rank = try config.needed(["kv_lora_rank"]), turned = try config.needed(["qk_rope_head_dim"]), unturned = try config.needed(["qk_nope_head_dim"])
    let sizes: Range<UInt32> = 1..<1 << 20
    guard sizes.contains(rank), sizes.contains(turned), sizes.contains(unturned) else {
      throw NibbleError.badInput("\(path: place): heads of \(unturned) and \(turned) numbers and latents of \(rank)")
    }
    out[key("leading_dense_block_count")] = .u32(try config.needed(["first_k_dense_replace"]))
    out[key("vocab_size")] = .u32(try config.needed(["vocab_size"]))
    // Without the key llama.cpp loads none but those it knows by their layers.
    if let rank = try config.u32(["q_lora_rank"]) ?? (isLite ? nil : 0) { out[key("attention.q_lora_rank")] = .u32(rank) }
    out[key("attention.kv_lora_rank")] = .u32(rank)
    out[key("attention.key_length")] = .u32(rank + turned)
    out[key("attention.value_length")] = .u32(rank)
    out[key("attention.key_length_mla")] = .u32(unturned + turned)
    out[key("attention.value_length_mla")] = .u32(try config.needed(["v_head_dim"]))
    out[key("expert_feed_forward_length")] = .u32(try config.needed(["moe_intermediate_size"]))
    out[key("expert_shared_count")] = .u32(try config.needed(["n_shared_experts"]))
    try writeScale(&out)
    if config.value(["norm_topk_prob"])?.bool == true { out[key("expert_weights_norm")] = .bool(true) }
    out[key("rope.dimension_count")] = .u32(turned)
    if let scale = try RopeNumbers(config, place)?.temperature { out[key("rope.scaling.yarn_log_multiplier")] = .f32(Float(0.1 * scale)) }
  }

  /// Whether llama.cpp takes it for one whose queries have no latents.
  private var isLite: Bool {
    let layers = config.value(["num_hidden_layers"])?.int
    return layers == 26 || layers == 27 || layers == 48 && config.value(["vocab_size"])?.int == 128256
  }

  /// What llama.cpp's attention through latents does not have.
  private func checkLatents() throws {
    func refuse(_ key: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: key) is \(value); llama.cpp \(reason)") }
    for name in ["attention_bias", "mlp_bias"] where config.config[name]?.bool == true { throw refuse(name, "true", "has no such biases") }
    if let turned = config.config["rope_interleave"], turned.bool != true { throw refuse("rope_interleave", turned.text(), "turns pairs beside each other") }
    if config.modelType == "deepseek_v2", let addsUp = config.value(["norm_topk_prob"]), addsUp.bool != false {
      throw refuse("norm_topk_prob", addsUp.text(), "makes weights add up then, which the model does not")
    }
    if let rank = try config.u32(["q_lora_rank"]), isLite { throw refuse("q_lora_rank", "\(rank)", "loads models of so many layers without it only") }
    let heads = try config.needed(["num_attention_heads"])
    if let keys = try config.u32(["num_key_value_heads"]), keys != heads { throw refuse("num_key_value_heads", "\(keys)", "has as many as heads of queries, \(heads)") }
    try RopeNumbers(config, place)?.checkLatents()
  }

  /// After what is usual.
  func writeGlm4Moe(_ out: inout GgufMetadata) throws {
    out[key("rope.dimension_count")] = .u32(try turned(default: 0.5))
    out[key("expert_feed_forward_length")] = .u32(try config.needed(["moe_intermediate_size"]))
    out[key("expert_shared_count")] = .u32(try config.needed(["n_shared_experts"]))
    out[key("leading_dense_block_count")] = .u32(try config.needed(["first_k_dense_replace"]))
    out[key("expert_gating_func")] = .u32(2)
    try writeScale(&out)
    if let addsUp = config.value(["norm_topk_prob"])?.bool { out[key("expert_weights_norm")] = .bool(addsUp) }
    if let layers = try config.u32(["num_nextn_predict_layers", "num_mtp_layers"]) { out[key("nextn_predict_layers")] = .u32(layers) }
  }

  private func writeScale(_ out: inout GgufMetadata) throws {
    if let scale = try config.float(["routed_scaling_factor"]) { out[key("expert_weights_scale")] = .f32(scale) }
  }

  /// What llama.cpp cannot route so.
  func checkRouter(_ count: Int) throws {
    func refuse(_ key: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: key) is \(value); llama.cpp \(reason)") }
    if isLatent { try checkLatents() }
    for (name, usual) in [("scoring_func", hasSigmoids ? "sigmoid" : "softmax"), ("topk_method", hasSigmoids ? "noaux_tc" : "greedy")] {
      if name == "topk_method", !hasSigmoids, try config.u32(["n_group"]) ?? 1 == 1 { continue }
      guard let value = config.value([name]), value.string != usual else { continue }
      throw refuse(name, quoted(value.string ?? value.text()), "has \(usual) for \(quoted(architecture))")
    }
    let groups = picksGroups ? Int(try config.u32(["n_group"]) ?? 1) : 1, used = Int(try config.u32(["topk_group"]) ?? 1)
    guard groups < 2 || count % groups == 0 && count / groups > 1 else {
      throw refuse("n_group", "\(groups)", "has groups of two experts and more, and \(count) are no such")
    }
    guard groups < count else { throw refuse("n_group", "\(groups)", "has fewer groups than experts, of which there are \(count)") }
    guard groups < 2 || (1..<groups).contains(used) else { throw refuse("topk_group", "\(used)", "picks fewer groups than there are, \(groups)") }
    let dense = try config.firstWithExperts() ?? 0, layers = try config.whole(["num_hidden_layers"]) ?? 0
    guard dense < layers else { throw refuse("first_k_dense_replace", "\(dense)", "has experts in some layer, and there are \(layers)") }
    guard try config.u32(["n_shared_experts"]) ?? 0 > 0 else { throw refuse("n_shared_experts", "0", "has one at least") }
  }
}

extension HuggingFaceNumbers {
  /// Layers behind the last, which predict further tokens and which llama.cpp's files do not have; nil where there are none.
  func layersLeftOut(_ names: LlamaCppNames) throws -> Range<Int>? {
    guard names.further == .leftOut else { return nil }
    let layers = Int(try needed(["num_hidden_layers"])), count = Int(try u32(["num_nextn_predict_layers", "num_mtp_layers"]) ?? 1)
    guard count <= 64 else { throw NibbleError.badInput("\(path: place): \(key: "num_nextn_predict_layers") is \(count)") }
    return layers..<layers + count
  }
}
