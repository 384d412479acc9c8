import NibbleCore

/// What a family of decoders calls what llama.cpp has one name for, where that is not what Llama calls it.
private struct OwnWords {
  var name: String
  var epsilon = "rms_norm_eps", activation = ("hidden_act", "silu"), part = "partial_rotary_factor"
  /// The part of a head that transformers takes to be turned where nothing says.
  var usualPart = 1.0
  /// Whether the configuration has a key for the size of a head.
  var hasHeadSize = true
  /// The key that says whether projections have biases, and which tensor shows it.
  var bias = ("attention_bias", "blk.0.attn_q.bias")
  /// Whether that is so where nothing says it.
  var hasBias = false

  static let all: [String: OwnWords] = [
    "llama": .init(name: "Llama"), "qwen3": .init(name: "Qwen3"), "granite": .init(name: "Granite"), "olmo2": .init(name: "Olmo2"),
    "olmo3": .init(name: "Olmo3"), "qwen3_moe": .init(name: "Qwen3Moe"),
    "qwen2_moe": .init(name: "Qwen2Moe", hasHeadSize: false, bias: ("qkv_bias", "blk.0.attn_q.bias"), hasBias: true),
    "mixtral": .init(name: "Mixtral", hasHeadSize: false, bias: ("", "")), "olmoe": .init(name: "Olmoe", hasHeadSize: false),
    "smollm3": .init(name: "SmolLM3"), "granitemoehybrid": .init(name: "GraniteMoeHybrid"), "ministral3": .init(name: "Ministral3", bias: ("", "")),
    "llama4_text": .init(name: "Llama4"), "gpt_oss": .init(name: "GptOss", hasBias: true),
    "qwen2": .init(name: "Qwen2", bias: ("", "")),
    "gemma": .init(name: "Gemma", activation: ("hidden_activation", "gelu_pytorch_tanh")),
    "gemma2": .init(name: "Gemma2", activation: ("hidden_activation", "gelu_pytorch_tanh")),
    "gemma3_text": .init(name: "Gemma3", activation: ("hidden_activation", "gelu_pytorch_tanh")),
    "phi3": .init(name: "Phi3", hasHeadSize: false, bias: ("", "")),
    "phi": .init(
      name: "Phi", epsilon: "layer_norm_eps", activation: ("hidden_act", "gelu_new"), usualPart: 0.5, hasHeadSize: false, bias: ("", "")),
    "glm": .init(name: "Glm", usualPart: 0.5, hasBias: true), "glm4": .init(name: "Glm4", usualPart: 0.5, hasBias: true),
    "glm4_moe": .init(name: "Glm4Moe", usualPart: 0.5),
    "starcoder2": .init(
      name: "Starcoder2", epsilon: "norm_epsilon", activation: ("hidden_act", "gelu_pytorch_tanh"), hasHeadSize: false,
      bias: ("use_bias", "blk.0.attn_q.bias"), hasBias: true),
    "gpt_neox": .init(
      name: "GPTNeoX", epsilon: "layer_norm_eps", activation: ("hidden_act", "gelu"), part: "rotary_pct", usualPart: 0.25,
      hasHeadSize: false, bias: ("attention_bias", "blk.0.attn_qkv.bias"), hasBias: true),
    "falcon": .init(
      name: "Falcon", epsilon: "layer_norm_epsilon", activation: ("activation", "gelu"), hasHeadSize: false,
      bias: ("bias", "blk.0.attn_qkv.bias")),
  ]
}

extension GgufConfigReader {
  mutating func addDecoder(_ type: String) throws {
    let words = OwnWords.all[type] ?? OwnWords(name: type)
    let width = try needed("embedding_length"), heads = try needed("attention.head_count"), layers = try layerCount()
    let length = try whole("attention.key_length"), value = try whole("attention.value_length"), turned = try whole("rope.dimension_count")
    let size = length ?? (tensors["blk.0.attn_q.weight"].flatMap { $0.shape.first }.map { $0 / heads } ?? width / heads)
    if value ?? size != size { used.remove("\(architecture).attention.value_length") }
    let part = Double(turned ?? size) / Double(max(1, size))
    if part != words.usualPart { set(words.part, part) }
    set("architectures", JSON([words.name + "ForCausalLM"]))
    set("hidden_size", width)
    let inner = try needed("feed_forward_length")
    // The converter of some families writes what their published models have; the tensors say what is.
    let ofExperts = ["gpt_oss", "llama4_text"].contains(type) ? try whole("expert_feed_forward_length") : nil
    set("intermediate_size", ofExperts ?? (["phi", "falcon"].contains(type) ? columns("blk.0.ffn_down.weight") ?? inner : inner))
    set("num_hidden_layers", layers - (try furtherLayers(type, of: layers)))
    set("num_attention_heads", heads)
    var keyHeads = try whole("attention.head_count_kv") ?? heads
    if type == "phi", size > 0, let rows = rows("blk.0.attn_k.weight") { keyHeads = rows / size }
    if type != "gpt_neox" { set("num_key_value_heads", keyHeads) }
    if words.hasHeadSize || size != width / heads { set("head_dim", size) }
    set("max_position_embeddings", try needed("context_length"))
    set(words.epsilon, try decimal(words.epsilon == "rms_norm_eps" ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon"))
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
    set(words.activation.0, JSON(words.activation.1))
    let hasBias = tensors[words.bias.1] != nil
    if hasBias != words.hasBias, !words.bias.0.isEmpty { set(words.bias.0, .bool(hasBias)) }
    if tensors["blk.0.ffn_gate.bias"] != nil { set("mlp_bias", true) }
    for (name, ours) in [
      ("logit_scale", "logits_scaling"), ("residual_scale", "residual_multiplier"), ("embedding_scale", "embedding_multiplier"),
      ("attention.scale", "attention_multiplier"), ("attn_logit_softcapping", "attn_logit_softcapping"),
      ("final_logit_softcapping", "final_logit_softcapping"),
    ] { set(ours, try decimal(name)) }
    if LlamaCppNames.of(modelType: type)?.experts != nil {
      let count = ["mixtral", "gpt_oss", "llama4_text"].contains(type) ? "num_local_experts" : type == "glm4_moe" ? "n_routed_experts" : "num_experts"
      set(count, try needed("expert_count"))
      set("num_experts_per_tok", try needed("expert_used_count"))
    } else {
      if let experts = try whole("expert_count"), experts > 0 { set("num_local_experts", experts) }
      if let experts = try whole("expert_used_count"), experts > 0 { set("num_experts_per_tok", experts) }
    }
    try addOwn(type, width: width, heads: heads, keyHeads: keyHeads, layers: layers, size: size)
    try addRotation(type, size: turned ?? size)
  }

  /// What only some families have.
  private mutating func addOwn(_ type: String, width: Int, heads: Int, keyHeads: Int, layers: Int, size: Int) throws {
    func kinds(_ isSliding: (Int) -> Bool) -> JSON { JSON((0..<layers).map { isSliding($0) ? "sliding_attention" : "full_attention" }) }
    switch type {
    case "gemma2", "gemma3_text":
      // llama.cpp scales by the size of a head but in the models of 27 billion weights.
      set("query_pre_attn_scalar", layers == (type == "gemma2" ? 46 : 62) ? width / heads : size)
      let window = try whole("attention.sliding_window")
      if window == nil, type == "gemma3_text" { set("sliding_window", .null) } else { set("sliding_window", window) }
      if type == "gemma3_text" { set("layer_types", kinds { window != nil && ($0 + 1) % 6 != 0 }) }
    case "olmo3":
      set("sliding_window", try whole("attention.sliding_window"))
      let key = key("attention.sliding_window_pattern")
      if let list = file.list(key), list.kind == .bool {
        let isSliding = try file.bytes(key)
        guard isSliding.count == layers else { throw fail(key, "an entry for each of \(layers) layers") }
        set("layer_types", kinds { isSliding[$0] != 0 })
      } else if file.metadata[key] != nil {
        used.remove(key)
      }
    case "qwen3_moe":
      // llama.cpp's own default.
      set("moe_intermediate_size", try whole("expert_feed_forward_length") ?? needed("feed_forward_length") / needed("expert_used_count"))
      set("norm_topk_prob", true)
    case "qwen2_moe":
      // llama.cpp's own defaults.
      set("moe_intermediate_size", try whole("expert_feed_forward_length") ?? needed("feed_forward_length") / needed("expert_used_count"))
      set("shared_expert_intermediate_size", try whole("expert_shared_feed_forward_length") ?? needed("feed_forward_length"))
      set("norm_topk_prob", false)
    case "olmoe": set("norm_topk_prob", false)
    case "granitemoehybrid": try addGranite4(width: width, layers: layers)
    case "llama4_text":
      set("intermediate_size_mlp", try needed("feed_forward_length"))
      set("interleave_moe_layer_step", try whole("interleave_moe_layer_step"))
      set("use_qk_norm", .bool(try needed("expert_count") != 128))
    case "glm4_moe": try addGlm4Moe()
    case "gpt_oss":
      set("sliding_window", try whole("attention.sliding_window"))
      set("layer_types", kinds { $0 % 2 == 0 })
    case "phi3":
      if let window = try whole("attention.sliding_window"), window > 0 { set("sliding_window", window) }
    case "gpt_neox":
      let key = key("use_parallel_residual")
      set("use_parallel_residual", .bool(file.bool(key) ?? true))
    case "falcon":
      _ = key("tensor_data_layout")
      let hasTwo = tensors["blk.0.attn_norm_2.weight"] != nil, isLater = hasTwo || keyHeads > 1 && keyHeads < heads
      set("ffn_hidden_size", try columns("blk.0.ffn_down.weight") ?? needed("feed_forward_length"))
      set("num_kv_heads", keyHeads)
      set("new_decoder_architecture", .bool(isLater))
      set("parallel_attn", true)
      if isLater { set("num_ln_in_parallel_attn", hasTwo ? 2 : 1) } else { set("multi_query", .bool(keyHeads == 1)) }
    default: break
    }
  }

  private mutating func addGranite4(width: Int, layers: Int) throws {
    set("shared_intermediate_size", try needed("expert_shared_feed_forward_length"))
    set("layer_types", JSON(Array(repeating: "attention", count: layers)))
    for name in ["num_local_experts", "num_experts_per_tok"] { set(name, 0) }
    set("position_embedding_type", file.bool(key("rope.scaling.finetuned")) == false ? "nope" : "rope")
    for (name, ours) in [("conv_kernel", "mamba_d_conv"), ("state_size", "mamba_d_state"), ("group_count", "mamba_n_groups"), ("time_step_rank", "mamba_n_heads")] {
      set(ours, try whole("ssm." + name))
    }
    if let inner = try whole("ssm.inner_size") { set("mamba_expand", inner / width) }
  }

  mutating func addRotation(_ type: String, size: Int) throws {
    let base = try decimal("rope.freq_base") ?? 10_000
    let scaling = try scaling(type, base: base, size: size)
    guard type != "olmo3" else {
      // Outside of this its θ counts for layers that see everything only.
      let sliding = try decimal("rope.freq_base_swa") ?? base
      let full = (scaling?.members.map(Array.init) ?? [("rope_type", "default")]) + [("rope_theta", JSON(base))]
      return set(
        "rope_parameters",
        ["full_attention": .object(full.map { (key: $0.0, value: $0.1) }), "sliding_attention": ["rope_type": "default", "rope_theta": JSON(sliding)]])
    }
    if type == "gpt_oss" {
      // Where nothing says how positions are scaled, transformers scales them.
      let own = scaling?.members.map(Array.init) ?? [("rope_type", "default")]
      return set("rope_parameters", .object((own + [("rope_theta", JSON(base))]).map { (key: $0.0, value: $0.1) }))
    }
    set(type == "gpt_neox" ? "rotary_emb_base" : "rope_theta", base)
    if type == "gemma3_text" { set("rope_local_base_freq", try decimal("rope.freq_base_swa") ?? 10_000) }
    if let scaling { set("rope_scaling", scaling) }
  }

  /// What scales positions; nil where nothing does.
  private mutating func scaling(_ type: String, base: Double, size: Int) throws -> JSON? {
    let kind = try text("rope.scaling.type") ?? "none"
    let said = try decimal("rope.scaling.factor")
    let factor = try said ?? decimal("rope.scale_linear") ?? 1
    let trained = try whole("rope.scaling.original_context_length")
    _ = key("rope.scaling.finetuned")
    if type == "phi3" { set("original_max_position_embeddings", trained) }
    if let long = factors[GgufSource.longFactors], let short = factors[GgufSource.shortFactors] { return try longRoPE(long, short) }
    if let frequencies = factors[GgufSource.frequencies] {
      return Llama3Scaling(frequencies, base: base, size: size).map(\.json) ?? ["rope_type": JSON(GgufSource.frequencies)]
    }
    if kind == "yarn" {
      var scaling: [(key: String, value: JSON)] = [("rope_type", "yarn"), ("factor", JSON(factor))]
      if let trained { scaling.append(("original_max_position_embeddings", JSON(trained))) }
      for (name, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
        if let number = try decimal("rope.scaling." + name) { scaling.append((ours, JSON(number))) }
      }
      if let number = try decimal("rope.scaling.yarn_attn_factor") ?? decimal("rope.scaling.attn_factor") { scaling.append(("attention_factor", JSON(number))) }
      if type == "ministral3" {
        if let scale = try decimal("rope.scaling.yarn_log_multiplier") { scaling += [("mscale", 1), ("mscale_all_dim", JSON(scale))] }
        scaling.append(("llama_4_scaling_beta", JSON(try decimal("attention.temperature_scale") ?? 0)))
      }
      // llama.cpp rounds the bounds for every model; those that are published do not.
      if type == "gpt_oss" { scaling.append(("truncate", false)) }
      scaling += try latentTemperature(type)
      return .object(scaling)
    }
    if kind != "none", kind != "linear" { return ["rope_type": JSON(kind)] }
    let isLinear = factor != 0 && factor != 1 || kind == "linear" && said != nil
    return isLinear ? ["rope_type": "linear", "factor": JSON(factor)] : nil
  }

  /// Phi-3's factors of each frequency, for short and for long texts.
  private mutating func longRoPE(_ long: [Float], _ short: [Float]) throws -> JSON {
    func list(_ numbers: [Float]) -> JSON { .array(numbers.map { JSON(Double($0.description) ?? Double($0)) }) }
    var scaling: [(key: String, value: JSON)] = [("type", "longrope"), ("rope_type", "longrope"), ("long_factor", list(long)), ("short_factor", list(short))]
    if let number = try decimal("rope.scaling.attn_factor") { scaling.append(("attention_factor", JSON(number))) }
    return .object(scaling)
  }
}
