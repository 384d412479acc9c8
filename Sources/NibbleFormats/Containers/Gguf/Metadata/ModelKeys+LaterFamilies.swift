import NibbleCore

/// What `convert_hf_to_gguf.py` writes for Granite 4, Ministral 3 and Llama 4 after what is usual, and what llama.cpp computes of them otherwise.
extension ModelKeys {
  /// Of layers of Mamba, too, which there are none of.
  func writeGranite4(_ out: inout GgufMetadata) throws {
    out[key("expert_shared_feed_forward_length")] = .u32(try config.needed(["shared_intermediate_size"]))
    out[key("ssm.conv_kernel")] = .u32(try config.needed(["mamba_d_conv"]))
    out[key("ssm.state_size")] = .u32(try config.needed(["mamba_d_state"]))
    out[key("ssm.group_count")] = .u32(try config.needed(["mamba_n_groups"]))
    let (inner, overflow) = try config.needed(["mamba_expand"]).multipliedReportingOverflow(by: config.needed(["hidden_size"]))
    guard !overflow else { throw NibbleError.badInput("\(path: place): \(key: "mamba_expand") is too large") }
    out[key("ssm.inner_size")] = .u32(inner)
    out[key("ssm.time_step_rank")] = .u32(try config.needed(["mamba_n_heads"]))
    let layers = try layerCount(), heads = Int32(clamping: try config.keyHeads() ?? config.needed(["num_attention_heads"]))
    out[key("attention.head_count_kv")] = .i32s(Array(repeating: heads, count: layers))
    out[key("rope.scaling.finetuned")] = .bool(config.config["position_embedding_type"]?.string == "rope")
  }

  func checkGranite4() throws {
    let experts = config.config["num_local_experts"]?.int ?? 8
    guard experts == 0 else { throw NibbleError.usage("\(path: place): \(key: "num_local_experts") is \(experts); experts of this family are not written as GGUF") }
    let types = config.config["layer_types"]?.array ?? ["linear_attention"]
    if let odd = types.first(where: { $0 != "attention" && $0 != "full_attention" }) {
      throw NibbleError.usage("\(path: place): \(key: "layer_types"): \(quoted(odd.string ?? odd.text())) is not written as GGUF")
    }
    if let type = config.value(["position_embedding_type"]), type != "rope", type != "nope" {
      throw NibbleError.usage("\(path: place): \(key: "position_embedding_type") is \(quoted(type.string ?? type.text())), which llama.cpp does not have")
    }
  }

  func writeMinistral3(_ out: inout GgufMetadata) throws {
    guard let rope = try RopeNumbers(config, place) else { return }
    if let scale = try rope.number("mscale_all_dim") { out[key("rope.scaling.yarn_log_multiplier")] = .f32(Float(scale)) }
    out[key("attention.temperature_scale")] = .f32(Float(try rope.number("llama_4_scaling_beta") ?? 0))
  }

  func checkMinistral3() throws {
    guard let rope = try RopeNumbers(config, place) else { return }
    guard rope.type == "yarn" else {
      throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(rope.type)); llama.cpp computes \(quoted(architecture)) with yarn only")
    }
    guard try rope.number("llama_4_scaling_beta") != nil else { throw NibbleError.badInput("\(path: place): \(key: "llama_4_scaling_beta") is missing") }
    if let factor = try rope.number("attention_factor") {
      throw NibbleError.usage("\(path: place): \(key: "attention_factor") is \(factor), which llama.cpp does not have for \(quoted(architecture))")
    }
    let scale = try rope.number("mscale") ?? 0, ofAll = try rope.number("mscale_all_dim") ?? 0
    guard ofAll == 0 || scale == 1 else {
      throw NibbleError.usage("\(path: place): \(key: "mscale") is \(scale); llama.cpp computes \(quoted(architecture)) with 1")
    }
  }

  /// llama.cpp has as numbers of its own what Llama 4's configuration says of chunks, positions and scales.
  func checkLlama4() throws {
    func refuse(_ name: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: name) is \(value); llama.cpp \(reason)") }
    let layers = try layerCount(), context = try config.whole(["max_position_embeddings"]) ?? 0, own = 8192
    let interval = try config.whole(["no_rope_layer_interval"]) ?? 4
    guard interval > 0 else { throw NibbleError.badInput("\(path: place): \(key: "no_rope_layer_interval") is \(interval)") }
    let list = config.value(["no_rope_layers"])?.array ?? []
    let turns = list.isEmpty ? (0..<layers).map { ($0 + 1) % interval != 0 } : list.map { $0.int != 0 }
    guard turns == (0..<layers).map({ ($0 + 1) % 4 != 0 }) else {
      throw NibbleError.usage("\(path: place): \(key: "no_rope_layers") are not every fourth layer, which llama.cpp leaves without positions")
    }
    let isShort = context < own, chunk = try config.whole(["attention_chunk_size"]) ?? own
    guard chunk == own || chunk >= context && isShort else { throw refuse("attention_chunk_size", "\(chunk)", "computes with \(own)") }
    if let types = config.value(["layer_types"])?.array, !isShort, types.map({ $0 == "chunked_attention" }) != turns {
      throw NibbleError.usage("\(path: place): \(key: "layer_types"): other layers than those with positions see chunks, which llama.cpp does not have")
    }
    let isTuned = config.config["attn_temperature_tuning"].map { $0 != false && $0 != 0 } ?? true
    let span = try config.whole(["floor_scale"]) ?? own, slope = try config.float(["attn_scale"]) ?? 0
    guard isTuned || isShort else { throw refuse("attn_temperature_tuning", "false", "always has it") }
    if isTuned, span != own || slope != 0.1, span <= context || !isShort {
      throw refuse(span != own ? "floor_scale" : "attn_scale", span != own ? "\(span)" : "\(slope)", "computes with \(span != own ? "\(own)" : "0.1")")
    }
    let norms = config.config["use_qk_norm"]?.bool ?? true, wanted = try config.experts() != 128
    guard norms == wanted else { throw refuse("use_qk_norm", "\(norms)", "computes models of \(wanted ? "other than " : "")128 experts with \(wanted)") }
    let step = try config.whole(["interleave_moe_layer_step"]) ?? 1
    guard step > 0 else { throw NibbleError.badInput("\(path: place): \(key: "interleave_moe_layer_step") is \(step)") }
    if let list = config.value(["moe_layers"])?.array, Set(list.map(\.int)) != Set(stride(from: step - 1, to: layers, by: step).map { Optional($0) }) {
      throw NibbleError.usage("\(path: place): \(key: "moe_layers") are other layers than every \(step), which llama.cpp does not have")
    }
    if let rope = try RopeNumbers(config, place), rope.type != "default", rope.type != "llama3" {
      throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(rope.type)), which is not written for \(quoted(architecture))")
    }
  }

  private func layerCount() throws -> Int {
    let layers = Int(try config.needed(["num_hidden_layers"]))
    guard layers <= 1 << 16 else { throw NibbleError.badInput("\(path: place): num_hidden_layers is \(layers)") }
    return layers
  }
}
