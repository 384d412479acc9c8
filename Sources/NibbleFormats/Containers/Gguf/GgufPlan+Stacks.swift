import NibbleCore

/// Encoders with decoders.
extension GgufPlan {
  /// llama.cpp loads whole models only: every layer of either stack. The first of each has the table of distances beside.
  func checkStacks(_ numbers: HuggingFaceNumbers, _ llamaCpp: LlamaCppNames) throws {
    for stack in llamaCpp.stacks {
      let count = Int(try numbers.needed(stack.count))
      var tensors: [Int: Int] = [:]
      for name in names.values where name.hasPrefix(stack.gguf) && !name.contains("attn_rel_b") {
        tensors[Int(name.dropFirst(stack.gguf.count).prefix { $0 != "." }) ?? -1, default: 0] += 1
      }
      let odd = (0..<min(count, 1 << 16)).first { tensors[$0] == nil || tensors[$0] != tensors.values.max() }
      guard count <= 1 << 16, odd == nil, tensors.count == count, names.values.contains(stack.gguf + "0.attn_rel_b.weight") else {
        throw NibbleError.usage(
          "\(path: numbers.place): its configuration says \(count) layers of \(quoted(stack.layers)), "
            + (odd.map { "and tensors of layer \($0) are missing" } ?? "and there are tensors of \(tensors.count)") + "; llama.cpp loads whole models only")
      }
    }
    guard numbers.scalesStates == (ownHead == nil) else {
      throw NibbleError.usage(
        "\(path: numbers.place): \(key: "scale_decoder_outputs") is \(numbers.scalesStates); llama.cpp's files are taken for models that divide states before a head that is the embedding, and before no other")
    }
  }

  private var ownHead: String? { names.values.first { $0 == "output.weight" } }

  /// What goes all the same.
  func warnings(_ numbers: HuggingFaceNumbers) throws -> [Warning] {
    guard ["t5", "mt5"].contains(numbers.modelType), numbers.scalesStates else { return [] }
    return [
      .init(
        .compatibility,
        "\(path: numbers.place): llama.cpp does not divide states by the root of the width before the head: the likeliest token stays, sampling differs")
    ]
  }
}

extension HuggingFaceNumbers {
  /// Whether states are divided by the root of the width before the head, as T5's first models do, whose head is the embedding.
  var scalesStates: Bool {
    guard modelType == "t5" else { return false }
    return (value(["scale_decoder_outputs"]) ?? value(["tie_word_embeddings"]))?.bool ?? true
  }
}

extension ModelKeys {
  func writeT5(_ fileType: Int, _ out: inout GgufMetadata) throws {
    out[key("context_length")] = .u32(try config.u32(["n_positions"]) ?? 512)
    out[key("embedding_length")] = .u32(try config.needed(["d_model"]))
    out[key("feed_forward_length")] = .u32(try config.needed(["d_ff"]))
    out[key("block_count")] = .u32(try config.needed(["num_layers", "num_hidden_layers"]))
    if let layers = try config.u32(["num_decoder_layers"]) { out[key("decoder_block_count")] = .u32(layers) }
    out[key("attention.head_count")] = .u32(try config.needed(["num_heads"]))
    let size = try config.needed(["d_kv"])
    out[key("attention.key_length")] = .u32(size)
    out[key("attention.value_length")] = .u32(size)
    let epsilon = try config.float(["layer_norm_epsilon"]) ?? 1e-6
    out[key("attention.layer_norm_epsilon")] = .f32(epsilon)
    out[key("attention.relative_buckets_count")] = .u32(try config.needed(["relative_attention_num_buckets"]))
    out[key("attention.layer_norm_rms_epsilon")] = .f32(epsilon)
    out[key("decoder_start_token_id")] = .u32(try config.needed(["decoder_start_token_id"]))
    out["general.file_type"] = .u32(UInt32(fileType))
  }

  /// What llama.cpp's code for T5 has as a number of its own.
  func checkT5() throws {
    guard architecture == "t5" else { return }
    func refuse(_ key: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: key) is \(value); llama.cpp \(reason)") }
    let kind = config.value(["feed_forward_proj"])?.string ?? ""
    guard ["relu", "gated-gelu"].contains(kind) else { throw refuse("feed_forward_proj", quoted(kind), "computes with relu or gated-gelu only") }
    for (name, wanted) in [("dense_act_fn", JSON(kind == "relu" ? "relu" : "gelu_new")), ("is_gated_act", .bool(kind != "relu"))] {
      guard let value = config.value([name]), value != wanted else { continue }
      throw refuse(name, value.text(), "computes \(quoted(kind)) with \(wanted.text())")
    }
    if let longest = config.value(["relative_attention_max_distance"]), longest.int != 128 {
      throw refuse("relative_attention_max_distance", longest.text(), "computes with 128")
    }
    if let flag = config.value(["is_decoder"]), flag.bool != false { throw refuse("is_decoder", flag.text(), "does not have it") }
  }
}

extension GgufConfigReader {
  mutating func addT5() throws {
    set("architectures", JSON(["T5ForConditionalGeneration"]))
    set("is_encoder_decoder", true)
    set("d_model", try needed("embedding_length"))
    set("d_ff", try needed("feed_forward_length"))
    let layers = try layerCount(), own = try whole("decoder_block_count") ?? layers
    guard (1...1 << 16).contains(own) else { throw fail(key("decoder_block_count"), "at most 65536, and one") }
    set("num_layers", layers)
    set("num_decoder_layers", own)
    let heads = try needed("attention.head_count"), width = try needed("embedding_length")
    set("num_heads", heads)
    let size = try whole("attention.key_length") ?? width / heads
    if let value = try whole("attention.value_length"), value != size { used.remove(key("attention.value_length")) }
    set("d_kv", size)
    let epsilon = try decimal("attention.layer_norm_epsilon")
    set("layer_norm_epsilon", try decimal("attention.layer_norm_rms_epsilon") ?? epsilon)
    set("relative_attention_num_buckets", try needed("attention.relative_buckets_count"))
    set("relative_attention_max_distance", 128)
    set("feed_forward_proj", JSON(tensors["enc.blk.0.ffn_gate.weight"] == nil ? "relu" : "gated-gelu"))
    set("decoder_start_token_id", try whole("decoder_start_token_id") ?? 0)
    set("n_positions", try needed("context_length"))
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
    _ = key("attention.head_count_kv")
  }
}
