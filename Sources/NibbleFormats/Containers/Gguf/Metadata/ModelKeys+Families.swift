import NibbleCore

/// What `convert_hf_to_gguf.py` writes for families that have keys of their own, in its order.
extension ModelKeys {
  func writeGPT2(_ fileType: Int, _ out: inout GgufMetadata) throws {
    let width = try config.needed(["n_embd", "hidden_size"])
    out[key("block_count")] = .u32(try config.needed(["n_layer", "num_hidden_layers"]))
    out[key("context_length")] = .u32(try config.needed(["n_ctx", "n_positions"]))
    out[key("embedding_length")] = .u32(width)
    out[key("feed_forward_length")] = .u32(try config.u32(["n_inner"]) ?? width.multipliedReportingOverflow(by: 4).partialValue)
    out[key("attention.head_count")] = .u32(try config.needed(["n_head", "num_attention_heads"]))
    if let epsilon = try config.float(["layer_norm_epsilon"]) { out[key("attention.layer_norm_epsilon")] = .f32(epsilon) }
    out["general.file_type"] = .u32(UInt32(fileType))
  }

  func writeGemma(_ fileType: Int, _ out: inout GgufMetadata) throws {
    out[key("context_length")] = .u32(try config.needed(["max_position_embeddings"]))
    out[key("embedding_length")] = .u32(try config.needed(["hidden_size"]))
    out[key("block_count")] = .u32(try config.needed(["num_hidden_layers"]))
    out[key("feed_forward_length")] = .u32(try config.needed(["intermediate_size"]))
    out[key("attention.head_count")] = .u32(try config.needed(["num_attention_heads"]))
    if let heads = try config.keyHeads() { out[key("attention.head_count_kv")] = .u32(heads) }
    if let epsilon = try config.float(["rms_norm_eps"]) { out[key("attention.layer_norm_rms_epsilon")] = .f32(epsilon) }
    let size = try config.needed(["head_dim"])
    out[key("attention.key_length")] = .u32(size)
    out[key("attention.value_length")] = .u32(size)
    out["general.file_type"] = .u32(UInt32(fileType))
    try RopeNumbers(config, place)?.writeBase(key, &out)
    guard architecture == "gemma2" else { return }
    if let cap = try config.float(["attn_logit_softcapping"]) { out[key("attn_logit_softcapping")] = .f32(cap) }
    if let cap = try config.float(["final_logit_softcapping"]) { out[key("final_logit_softcapping")] = .f32(cap) }
    if let window = try config.u32(["sliding_window"]) { out[key("attention.sliding_window")] = .u32(window) }
  }

  /// After what is usual.
  func writeGemma3(_ out: inout GgufMetadata) throws {
    if let cap = try config.float(["final_logit_softcapping"]), cap != 0 { out[key("final_logit_softcapping")] = .f32(cap) }
    if try config.whole(["sliding_window_pattern"]) != 1, let window = try config.u32(["sliding_window"]) {
      out[key("attention.sliding_window")] = .u32(window)
    }
  }

  /// After what is usual.
  func writeOlmo3(_ out: inout GgufMetadata) throws {
    guard let window = try config.u32(["sliding_window"]) else { return }
    out[key("attention.sliding_window")] = .u32(window)
    let layers = Int(try config.needed(["num_hidden_layers"]))
    guard layers <= 1 << 16 else { throw NibbleError.badInput("\(path: place): num_hidden_layers is \(layers)") }
    out[key("attention.sliding_window_pattern")] = .bools(try config.slidingLayers(layers) ?? (0..<layers).map { ($0 + 1) % 4 != 0 })
  }

  /// After what is usual.
  func writeModernBert(_ out: inout GgufMetadata) throws {
    out[key("attention.sliding_window")] = .u32(try config.needed(["local_attention"]))
    let layers = Int(try config.needed(["num_hidden_layers"]))
    guard layers <= 1 << 16 else { throw NibbleError.badInput("\(path: place): num_hidden_layers is \(layers)") }
    // Every so many layers, from the first on, see all tokens; three is what llama.cpp takes by itself.
    let said = try config.u32(["global_attn_every_n_layers"])
    if let own = try config.slidingLayers(layers) {
      let every = [Int(said ?? 3)] + Array(1...max(1, layers))
      guard let found = every.first(where: { every in every > 0 && own == (0..<layers).map { $0 % every != 0 } }) else {
        throw NibbleError.usage("\(path: place): the layers that see all tokens are not evenly spaced, as llama.cpp requires")
      }
      if said != nil || found != 3 { out[key("attention.sliding_window_pattern")] = .u32(UInt32(found)) }
    } else if let said {
      out[key("attention.sliding_window_pattern")] = .u32(said)
    }
    out[key("rope.scaling.type")] = .text("none")
    out[key("vocab_size")] = .u32(try config.needed(["vocab_size"]))
    out[key("hidden_activation")] = .text(config.value(["hidden_activation"])?.string ?? "gelu")
  }

  func writePhi2(_ fileType: Int, _ out: inout GgufMetadata) throws {
    try writeSizes(["context_length", "embedding_length", "feed_forward_length", "block_count", "head_count", "head_count_kv"], &out)
    try writeEpsilon(&out)
    out[key("rope.dimension_count")] = .u32(try turned(default: 0.5))
    out["general.file_type"] = .u32(UInt32(fileType))
    try RopeNumbers(config, place)?.writeBase(key, &out)
    out["tokenizer.ggml.add_bos_token"] = .bool(false)
  }

  func writePhi3(_ fileType: Int, _ out: inout GgufMetadata) throws {
    let rope = try RopeNumbers(config, place)
    try writeSizes(["context_length"], &out)
    if let length = try rope?.trainedLength { out[key("rope.scaling.original_context_length")] = .u32(length) }
    try writeSizes(["embedding_length", "feed_forward_length", "block_count", "head_count", "head_count_kv"], &out)
    out[key("attention.layer_norm_rms_epsilon")] = .f32(try config.float(["rms_norm_eps"]) ?? 1e-5)
    out[key("rope.dimension_count")] = .u32(try turned(default: 1))
    out[key("rope.freq_base")] = .f32(Float(try rope?.base ?? 10_000))
    out["general.file_type"] = .u32(UInt32(fileType))
    // Zero tells Phi-4 from those of Phi-3 that have a window.
    out[key("attention.sliding_window")] = .u32(try config.u32(["sliding_window"]) ?? 0)
  }

  /// The converter reads the keys of models that brought their own code, and takes other numbers for what they call otherwise; these are
  /// the model's.
  func writeChatGLM(_ fileType: Int, _ out: inout GgufMetadata) throws {
    try writeSizes(["context_length", "embedding_length", "feed_forward_length", "block_count", "head_count", "head_count_kv"], &out)
    out[key("attention.layer_norm_rms_epsilon")] = .f32(try config.float(["rms_norm_eps"]) ?? 1.5625e-7)
    out["general.file_type"] = .u32(UInt32(fileType))
    out[key("rope.dimension_count")] = .u32(try turned(default: 0.5))
    out["tokenizer.ggml.add_bos_token"] = .bool(false)
    out[key("rope.freq_base")] = .f32(Float(try RopeNumbers(config, place)?.base ?? 10_000))
    if try config.needed(["head_dim"]) != config.needed(["hidden_size"]) / max(1, config.needed(["num_attention_heads"])) {
      out[key("attention.key_length")] = .u32(try config.needed(["head_dim"]))
      out[key("attention.value_length")] = .u32(try config.needed(["head_dim"]))
    }
  }

  func writeGPTNeoX(_ out: inout GgufMetadata) throws {
    try writeSizes(["context_length", "embedding_length", "block_count", "feed_forward_length"], &out)
    out[key("rope.dimension_count")] = .u32(try turned(default: 0.25))
    try writeSizes(["head_count"], &out)
    out[key("use_parallel_residual")] = .bool(config.value(["use_parallel_residual"])?.bool ?? true)
    try writeEpsilon(&out)
    try RopeNumbers(config, place)?.writeBase(key, &out)
  }

  func writeFalcon(_ fileType: Int, _ out: inout GgufMetadata) throws {
    try writeSizes(["context_length"], &out)
    out[key("tensor_data_layout")] = .text("jploski")
    try writeSizes(["embedding_length", "feed_forward_length", "block_count", "head_count"], &out)
    out[key("attention.head_count_kv")] = .u32(UInt32(clamping: try LlamaCppNames.falconKeys(config.config)))
    try writeEpsilon(&out)
    out["general.file_type"] = .u32(UInt32(fileType))
    try RopeNumbers(config, place)?.writeBase(key, &out)
  }

  // MARK: - Sizes

  /// Sizes under their usual names, in this order.
  private func writeSizes(_ names: [String], _ out: inout GgufMetadata) throws {
    for name in names {
      switch name {
      case "context_length": out[key(name)] = .u32(try config.needed(["max_position_embeddings"]))
      case "embedding_length": out[key(name)] = .u32(try config.needed(["hidden_size", "n_embed"]))
      case "feed_forward_length":
        let keys = architecture == "falcon" ? ["ffn_hidden_size"] : ["intermediate_size"]
        // Falcon's is four times the width where nothing says.
        let usual = try architecture == "falcon" ? config.needed(["hidden_size", "n_embed"]).multipliedReportingOverflow(by: 4).partialValue : nil
        out[key(name)] = .u32(try config.u32(keys) ?? usual ?? config.needed(keys))
      case "block_count": out[key(name)] = .u32(try config.needed(["num_hidden_layers"]))
      case "head_count": out[key("attention.head_count")] = .u32(try config.needed(["num_attention_heads"]))
      default: out[key("attention.head_count_kv")] = .u32(try config.keyHeads() ?? config.needed(["num_attention_heads"]))
      }
    }
  }

  private func writeEpsilon(_ out: inout GgufMetadata) throws {
    out[key("attention.layer_norm_epsilon")] = .f32(try config.float(Self.epsilons) ?? 1e-5)
  }

  /// Numbers of a head that are turned.
  func turned(default usual: Double) throws -> UInt32 {
    let heads = try config.needed(["num_attention_heads"])
    guard heads > 0 else { throw NibbleError.badInput("\(path: place): num_attention_heads is 0") }
    let size = try config.u32(["head_dim"]) ?? config.needed(["hidden_size"]) / heads
    let part = try RopeNumbers(config, place)?.part(default: usual) ?? usual
    guard let turned = UInt32(exactly: (part * Double(size)).rounded(.down)), turned > 0, turned <= size else {
      throw NibbleError.badInput("\(path: place): \(part) of each head is turned")
    }
    return turned
  }
}
