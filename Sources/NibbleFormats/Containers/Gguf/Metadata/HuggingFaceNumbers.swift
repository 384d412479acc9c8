import NibbleCore

/// The numbers of a config.json, those it leaves out as transformers fills them in.
struct HuggingFaceNumbers {
  let config: JSON
  let modelType: String
  private let defaults: JSON
  let place: String

  init(_ config: JSON, _ modelType: String, place: String) {
    (self.config, self.modelType, self.place) = (config, modelType, place)
    defaults = Self.defaults[modelType] ?? .object([])
  }

  /// The value of the first of these keys that there is; nil where that is null.
  func value(_ keys: [String]) -> JSON? {
    let key = keys.first { config[$0] != nil || defaults[$0] != nil }
    guard let key, let value = config[key] ?? defaults[key], value != .null else { return nil }
    return value
  }

  private func fail(_ keys: [String], _ value: JSON) -> NibbleError {
    .badInput("\(path: place): \(key: keys.first { config[$0] != nil } ?? keys[0]) is \(quoted(value.string ?? value.text()))")
  }

  /// A whole number.
  ///
  /// - Throws: `.badInput` for what is none
  func whole(_ keys: [String]) throws -> Int? {
    guard let value = value(keys) else { return nil }
    guard let number = value.int else { throw fail(keys, value) }
    return number
  }

  /// A whole number of at most 32 bits.
  ///
  /// - Throws: `.badInput` for what is none
  func u32(_ keys: [String]) throws -> UInt32? {
    guard let value = value(keys) else { return nil }
    guard let number = value.int.flatMap(UInt32.init(exactly:)) else { throw fail(keys, value) }
    return number
  }

  /// The same, which there must be.
  func needed(_ keys: [String]) throws -> UInt32 {
    guard let number = try u32(keys) else { throw NibbleError.badInput("\(path: place): its configuration has no \(key: keys[0])") }
    return number
  }

  /// A number.
  ///
  /// - Throws: `.badInput` for what is none
  func float(_ keys: [String]) throws -> Float? {
    guard let value = value(keys) else { return nil }
    guard let number = value.double, Float(number).isFinite else { throw fail(keys, value) }
    return Float(number)
  }

  /// Heads of keys: where the file says null, as many as of queries.
  func keyHeads() throws -> UInt32? {
    if let heads = try u32(["num_key_value_heads"]) { return heads }
    return defaults["num_key_value_heads"] == nil ? nil : try u32(["num_attention_heads"])
  }

  /// Experts of a layer, under either of transformers' names; nil for families without.
  ///
  /// - Throws: `.badInput` for what is no count, and where both names are there and differ
  func experts() throws -> Int? {
    guard let usual = (defaults["num_experts"] ?? defaults["n_routed_experts"])?.int else { return nil }
    let names = ["num_local_experts", "num_experts"] + (defaults["n_routed_experts"] == nil ? [] : ["n_routed_experts"])
    let keys = names.filter { config[$0] != nil && config[$0] != .null }
    let counts = try keys.map { key -> Int in
      guard let count = config[key]?.int, count >= 0 else { throw fail([key], config[key] ?? .null) }
      return count
    }
    guard Set(counts).count < 2 else {
      throw NibbleError.badInput("\(path: place): \(key: keys[0]) is \(counts[0]), \(keys[1]) is \(counts[1])")
    }
    return counts.first ?? usual
  }

  /// Layers behind the last, which predict further tokens and which a file counts; 0 where it has none.
  func furtherLayers(_ names: LlamaCppNames) throws -> Int {
    guard names.further == .kept else { return 0 }
    let count = Int(try u32(["num_nextn_predict_layers", "num_mtp_layers"]) ?? 0)
    guard count <= 64 else { throw NibbleError.badInput("\(path: place): \(key: "num_nextn_predict_layers") is \(count)") }
    return count
  }

  /// The first layer with experts; nil for families that have them in all.
  func firstWithExperts() throws -> Int? {
    guard defaults["first_k_dense_replace"] != nil else { return nil }
    return Int(try u32(["first_k_dense_replace"]) ?? 0)
  }

  /// Of each layer, whether it sees a window only, by `layer_types`; nil where the configuration has none.
  ///
  /// - Throws: `.badInput`
  func slidingLayers(_ layers: Int) throws -> [Bool]? {
    guard let types = config["layer_types"]?.array else { return nil }
    guard types.count == layers else { throw NibbleError.badInput("\(path: place): \(key: "layer_types") has \(types.count) entries for \(layers) layers") }
    return types.map { $0 == "sliding_attention" }
  }

  /// What transformers' configurations have for keys that files leave out.
  private static let defaults: [String: JSON] = [
    "llama": [
      "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-06),
    ],
    "mistral": [
      "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-06),
    ],
    "qwen2": [
      "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": JSON(1e-06),
    ],
    "qwen3": [
      "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "rms_norm_eps": JSON(1e-06),
    ],
    "mixtral": [
      "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-05), "num_experts": 8, "num_experts_per_tok": 2,
    ],
    "qwen3_moe": [
      "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24, "num_attention_heads": 32,
      "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": JSON(1e-06), "num_experts": 128, "num_experts_per_tok": 8,
      "moe_intermediate_size": 768,
    ],
    "qwen2_moe": [
      "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24, "num_attention_heads": 16,
      "num_key_value_heads": 16, "max_position_embeddings": 32768, "rms_norm_eps": JSON(1e-06), "num_experts": 60, "num_experts_per_tok": 4,
      "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    ],
    "gpt_oss": [
      "vocab_size": 201088, "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 36, "num_attention_heads": 64,
      "num_key_value_heads": 8, "head_dim": 64, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-05), "num_experts": 128,
      "num_experts_per_tok": 4, "sliding_window": 128,
    ],
    "olmoe": [
      "vocab_size": 50304, "hidden_size": 2048, "intermediate_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16,
      "num_key_value_heads": .null, "max_position_embeddings": 4096, "rms_norm_eps": JSON(1e-05), "num_experts": 64, "num_experts_per_tok": 8,
    ],
    "gemma": [
      "vocab_size": 256000, "hidden_size": 3072, "intermediate_size": 24576, "num_hidden_layers": 28, "num_attention_heads": 16,
      "num_key_value_heads": 16, "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": JSON(1e-06),
    ],
    "gemma2": [
      "vocab_size": 256000, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
      "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 8192, "rms_norm_eps": JSON(1e-06), "sliding_window": 4096,
      "query_pre_attn_scalar": 256, "final_logit_softcapping": 30, "attn_logit_softcapping": 50,
    ],
    "granite": [
      "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-06), "embedding_multiplier": 1,
      "logits_scaling": 1, "residual_multiplier": 1, "attention_multiplier": 1,
    ],
    "granitemoehybrid": [
      "vocab_size": 32000, "hidden_size": 4096, "shared_intermediate_size": 1024, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-06), "embedding_multiplier": 1,
      "logits_scaling": 1, "residual_multiplier": 1, "attention_multiplier": 1, "mamba_d_conv": 4, "mamba_d_state": 256, "mamba_n_groups": 1,
      "mamba_expand": 2, "mamba_n_heads": 128,
    ],
    "ministral3": [
      "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34, "num_attention_heads": 32,
      "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144, "rms_norm_eps": JSON(1e-05),
    ],
    "llama4_text": [
      "vocab_size": 202048, "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
      "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-05),
      "num_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "attention_chunk_size": 8192, "floor_scale": 8192,
      "attn_scale": JSON(0.1), "no_rope_layer_interval": 4,
    ],
    "olmo2": [
      "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-05),
    ],
    "smollm3": [
      "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
      "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": JSON(1e-06),
    ],
    "gemma3_text": [
      "vocab_size": 262208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8,
      "num_key_value_heads": 4, "head_dim": 256, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-06), "sliding_window": 4096,
      "query_pre_attn_scalar": 256,
    ],
    "olmo3": [
      "vocab_size": 50304, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-05), "sliding_window": 4096,
    ],
    "phi3": [
      "vocab_size": 32064, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 4096, "rms_norm_eps": JSON(1e-05),
    ],
    "phi": [
      "vocab_size": 51200, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 24, "num_attention_heads": 32,
      "num_key_value_heads": .null, "max_position_embeddings": 2048, "layer_norm_eps": JSON(1e-05),
    ],
    "glm": glm, "glm4": glm,
    "t5": t5.setting("vocab_size", to: 32128), "mt5": mt5,
    "deepseek_v2": [
      "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
      "max_position_embeddings": 2048, "rms_norm_eps": JSON(1e-06), "n_routed_experts": 64, "moe_intermediate_size": 1407,
      "n_shared_experts": 2, "first_k_dense_replace": 0, "routed_scaling_factor": 1, "q_lora_rank": 1536, "kv_lora_rank": 512,
      "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    ],
    "deepseek_v3": [
      "vocab_size": 129280, "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 61, "num_attention_heads": 128,
      "max_position_embeddings": 4096, "rms_norm_eps": JSON(1e-06), "n_routed_experts": 256, "num_experts_per_tok": 8,
      "moe_intermediate_size": 2048, "n_shared_experts": 1, "first_k_dense_replace": 3, "n_group": 8, "topk_group": 4,
      "routed_scaling_factor": JSON(2.5), "norm_topk_prob": true, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
      "qk_nope_head_dim": 128, "v_head_dim": 128,
    ],
    "glm4_moe": [
      "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 10944, "num_hidden_layers": 46, "num_attention_heads": 96,
      "num_key_value_heads": 8, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1e-05), "n_routed_experts": 128,
      "num_experts_per_tok": 8, "moe_intermediate_size": 1408, "n_shared_experts": 1, "first_k_dense_replace": 1, "n_group": 1,
      "topk_group": 1, "routed_scaling_factor": 1, "norm_topk_prob": true, "num_mtp_layers": 1,
    ],
    "starcoder2": [
      "vocab_size": 49152, "hidden_size": 3072, "intermediate_size": 12288, "num_hidden_layers": 30, "num_attention_heads": 24,
      "num_key_value_heads": 2, "max_position_embeddings": 4096, "norm_epsilon": JSON(1e-05),
    ],
    "gpt_neox": [
      "vocab_size": 50432, "hidden_size": 6144, "intermediate_size": 24576, "num_hidden_layers": 44, "num_attention_heads": 64,
      "max_position_embeddings": 2048, "layer_norm_eps": JSON(1e-05),
    ],
    "falcon": [
      "vocab_size": 65024, "hidden_size": 4544, "num_hidden_layers": 32, "num_attention_heads": 71, "max_position_embeddings": 2048,
      "layer_norm_epsilon": JSON(1e-05),
    ],
    "distilbert": [
      "vocab_size": 30522, "dim": 768, "n_layers": 6, "n_heads": 12, "hidden_dim": 3072, "max_position_embeddings": 512,
    ],
    "modernbert": [
      "vocab_size": 50368, "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22, "num_attention_heads": 12,
      "max_position_embeddings": 8192, "norm_eps": JSON(1e-05), "local_attention": 128,
    ],
    "gpt2": [
      "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "layer_norm_epsilon": JSON(1e-05),
    ],
    "bert": encoder, "roberta": encoder, "xlm-roberta": encoder,
  ]

  private static let t5: JSON = [
    "d_model": 512, "d_kv": 64, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": JSON(1e-06), "feed_forward_proj": "relu",
  ]
  private static let mt5: JSON = [
    "vocab_size": 250112, "d_model": 512, "d_kv": 64, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": JSON(1e-06), "feed_forward_proj": "gated-gelu", "decoder_start_token_id": 0,
  ]

  private static let glm: JSON = [
    "vocab_size": 151552, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 32,
    "num_key_value_heads": 2, "head_dim": 128, "max_position_embeddings": 131072, "rms_norm_eps": JSON(1.5625e-07),
  ]

  private static let encoder: JSON = [
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "max_position_embeddings": 512, "type_vocab_size": 2, "layer_norm_eps": JSON(1e-12),
  ]
}
