import NibbleCore

/// What llama.cpp computes in another way than the model does.
extension ModelKeys {
  /// Activations that llama.cpp's code has for an architecture.
  private var activations: Set<String> {
    switch architecture {
    case "gpt2", "gptneox", "falcon", "starcoder2", "phi2": ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu"]
    case "bert", "gemma", "gemma2", "gemma3": ["gelu", "gelu_new", "gelu_pytorch_tanh"]
    case "modern-bert": ["gelu", "silu"]
    default: ["silu", "swish"]
    }
  }

  func checkActivation() throws {
    // gpt-oss's experts have one gate, whatever the key says.
    guard architecture != "gpt-oss" else { return }
    for name in ["hidden_activation", "hidden_act", "activation_function", "activation"] {
      guard let value = config.config[name], value != .null else { continue }
      guard let text = value.string, activations.contains(text) else {
        throw NibbleError.usage(
          "\(path: place): \(key: name) is \(quoted(value.string ?? value.text())); llama.cpp computes \(quoted(architecture)) with \(activations.sorted().joined(separator: " or ")) only"
        )
      }
    }
  }

  /// Heads that share the width, and keys, evenly: nothing else runs.
  func checkHeads() throws {
    guard let heads = try config.whole(["num_attention_heads", "n_head", "n_heads"]) else { return }
    let keys = try architecture == "falcon" ? LlamaCppNames.falconKeys(config.config) : config.keyHeads().map(Int.init) ?? heads
    guard heads > 0, keys > 0, heads % keys == 0 else {
      throw NibbleError.badInput("\(path: place): \(heads) heads of queries cannot share \(keys) heads of keys and values")
    }
    guard try config.whole(["head_dim"]) == nil, let width = try config.whole(["hidden_size", "n_embd", "dim"]), width % heads != 0 else { return }
    throw NibbleError.badInput("\(path: place): a width of \(width) is no multiple of \(heads) heads")
  }

  /// A head of its own would be left out.
  func checkTie() throws {
    guard ["gemma", "gemma2"].contains(architecture), config.config["tie_word_embeddings"]?.bool == false else { return }
    throw NibbleError.usage("\(path: place): \(key: "tie_word_embeddings") is false; llama.cpp takes the embedding for the head")
  }

  func checkPositions() throws {
    switch config.modelType {
    case "granitemoehybrid": try checkGranite4()
    case "ministral3": try checkMinistral3()
    case "llama4_text": try checkLlama4()
    default: break
    }
    if config.modelType != "granitemoehybrid", let type = config.config["position_embedding_type"]?.string, type != "absolute" {
      throw NibbleError.usage("\(path: place): \(key: "position_embedding_type") is \(quoted(type)), which llama.cpp does not have")
    }
    for name in ["scale_attn_by_inverse_layer_idx", "add_cross_attention"] + (architecture == "t5" ? [] : ["is_encoder_decoder"])
    where config.config[name]?.bool == true {
      throw NibbleError.usage("\(path: place): \(key: name) is true, which llama.cpp does not have")
    }
    if ["gemma2", "gemma3"].contains(architecture), let scale = config.value(["query_pre_attn_scalar"])?.double, let size = try config.whole(["head_dim"]) {
      // The models of 27 billion weights, which llama.cpp knows by their layers, have the width by heads.
      let layers = try config.whole(["num_hidden_layers"]) ?? 0
      let heads = max(1, try config.whole(["num_attention_heads"]) ?? 1), width = try config.whole(["hidden_size"]) ?? 0
      let own = layers == (architecture == "gemma2" ? 46 : 62) ? Double(width / heads) : Double(size)
      guard scale == own else {
        throw NibbleError.usage("\(path: place): \(key: "query_pre_attn_scalar") is \(scale); llama.cpp computes with \(own)")
      }
    }
    if architecture == "falcon" {
      for (name, wanted) in [("alibi", false), ("bias", false), ("parallel_attn", true)] {
        guard let own = config.config[name]?.bool, own != wanted else { continue }
        throw NibbleError.usage("\(path: place): \(key: name) is \(own), which llama.cpp does not have")
      }
    }
    for (type, name) in [("starcoder2", "use_bias"), ("gptneox", "attention_bias")] where architecture == type && config.config[name]?.bool == false {
      throw NibbleError.usage("\(path: place): \(key: name) is false; llama.cpp loads \(quoted(architecture)) models with biases only")
    }
    if architecture == "gemma3", config.config["architectures"]?.array?.first == "Gemma3TextModel" {
      throw NibbleError.usage("\(path: place): llama.cpp takes a Gemma 3 without a head for an embedding model, which nibble does not write")
    }
    if ["gemma2", "gemma3"].contains(architecture) { try checkGemmaWindows() }
    for name in ["attn_logit_softcapping", "final_logit_softcapping"] where architecture == "gemma2" && config.value([name]) == nil {
      throw NibbleError.usage("\(path: place): \(key: name) is null, where llama.cpp has a bound")
    }
    if architecture == "modern-bert" { try checkModernBert() }
    if architecture == "smollm3", let layers = try config.whole(["num_hidden_layers"]), (0...1 << 16).contains(layers) {
      let usual = (0..<layers).map { ($0 + 1) % 4 == 0 ? 0 : 1 }
      let own = config.value(["no_rope_layers"])?.array?.map { $0.int ?? -1 } ?? usual
      guard own == usual, config.value(["no_rope_layer_interval"])?.int ?? 4 == 4 || config.value(["no_rope_layers"]) != nil else {
        throw NibbleError.usage(
          "\(path: place): \(key: "no_rope_layers") are not every fourth layer, which llama.cpp leaves without positions")
      }
    }
    if config.config["scale_attn_weights"]?.bool == false {
      throw NibbleError.usage("\(path: place): \(key: "scale_attn_weights") is false, which llama.cpp does not have")
    }
  }

  /// What llama.cpp's code has of experts, and how many.
  func checkExperts() throws {
    guard let count = try config.experts() else { return }
    func refuse(_ key: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: key) is \(value); llama.cpp \(reason)") }
    let mostExperts = 1024, used = Int(try config.needed(["num_experts_per_tok"]))
    guard (1...mostExperts).contains(count) else { throw refuse("num_experts", "\(count)", "has 1 to \(mostExperts) of them in every layer") }
    guard (1...count).contains(used) else {
      throw NibbleError.badInput("\(path: place): \(key: "num_experts_per_tok") is \(used), of \(count) experts")
    }
    if architecture == "gpt-oss" { try checkGptOss() }
    if try config.firstWithExperts() != nil { return try checkRouter(count) }
    if !["mixtral", "gpt_oss"].contains(config.modelType) {
      let addsUp = config.config["norm_topk_prob"]?.bool ?? false, wanted = architecture == "qwen3moe"
      guard addsUp == wanted else { throw refuse("norm_topk_prob", "\(addsUp)", "computes \(quoted(architecture)) with \(wanted)") }
    }
    if let clip = config.value(["clip_qkv"]) { throw refuse("clip_qkv", clip.text(), "does not have it for \(quoted(architecture))") }
    for (name, usual) in [("n_group", 1), ("topk_group", 1), ("routed_scaling_factor", 1), ("n_shared_experts", 0), ("shared_expert_intermediate_size", 0)]
    where name != "shared_expert_intermediate_size" || architecture != "qwen2moe" {
      guard let value = config.value([name]), value.double != Double(usual) else { continue }
      throw refuse(name, value.text(), "does not have it for \(quoted(architecture))")
    }
    if let function = config.value(["scoring_func"]), function.string != "softmax" {
      throw refuse("scoring_func", quoted(function.string ?? function.text()), "has softmax for \(quoted(architecture))")
    }
    if ["qwen2moe", "qwen3moe"].contains(architecture) { try checkDenseLayers() }
    if ["qwen2moe", "olmoe"].contains(architecture) {
      let heads = Int(try config.needed(["num_attention_heads"])), keys = try config.keyHeads().map(Int.init) ?? heads
      guard keys == heads || architecture == "qwen2moe" else {
        throw refuse("num_key_value_heads", "\(keys)", "has as many as heads of queries, \(heads)")
      }
      let width = Int(try config.needed(["hidden_size"])), size = try config.whole(["head_dim"]) ?? width / max(1, heads)
      guard size.multipliedReportingOverflow(by: heads) == (width, false) else {
        throw refuse("head_dim", "\(size)", "has heads that are the width, \(width), together")
      }
      guard config.config["tie_word_embeddings"]?.bool != true else { throw refuse("tie_word_embeddings", "true", "has a head of its own") }
    }
  }

  /// llama.cpp has experts in every layer of a Qwen2-MoE or Qwen3-MoE.
  private func checkDenseLayers() throws {
    let step = config.value(["decoder_sparse_step"])?.int ?? 1, layers = try config.whole(["num_hidden_layers"]) ?? 0
    guard step == 1 else {
      throw NibbleError.usage("\(path: place): \(key: "decoder_sparse_step") is \(step); llama.cpp has experts in every layer")
    }
    guard let dense = config.value(["mlp_only_layers"])?.array, dense.contains(where: { $0.int.map { $0 >= 0 && $0 < layers } ?? true }) else { return }
    throw NibbleError.usage("\(path: place): \(key: "mlp_only_layers") is \(JSON.array(dense).text()); llama.cpp has experts in every layer")
  }

  /// What llama.cpp's code for gpt-oss has as a number of its own, or cannot do without.
  private func checkGptOss() throws {
    func refuse(_ key: String, _ value: String, _ reason: String) -> NibbleError { .usage("\(path: place): \(key: key) is \(value); llama.cpp \(reason)") }
    for (name, usual) in [("swiglu_alpha", 1.702), ("swiglu_limit", 7)] {
      guard let value = config.value([name]), value.double != usual else { continue }
      throw refuse(name, value.text(), "computes with \(usual)")
    }
    guard config.config["attention_bias"]?.bool != false else { throw refuse("attention_bias", "false", "loads \(quoted(architecture)) models with biases only") }
    guard config.config["tie_word_embeddings"]?.bool != true else { throw refuse("tie_word_embeddings", "true", "has a head of its own") }
    let layers = try config.whole(["num_hidden_layers"]) ?? 0
    guard (0...1 << 16).contains(layers), try config.slidingLayers(layers).map({ $0 == (0..<layers).map { $0 % 2 == 0 } }) ?? true else {
      throw NibbleError.usage("\(path: place): \(key: "layer_types"): other layers than every second see all tokens, which llama.cpp does not have")
    }
  }

  /// What goes with a warning.
  mutating func checkWindows() {
    if architecture == "gpt-oss", (try? RopeNumbers(config, place))?.hasExactBounds == true {
      warnings.append(
        .init(.compatibility, "\(path: place): \(key: "truncate") is false; llama.cpp rounds the bounds of yarn's positions to whole numbers, so results differ a little"))
    }
    guard !hasWindows, let window = config.config["sliding_window"]?.int, config.config["use_sliding_window"]?.bool != false,
      let length = config.value(["max_position_embeddings"])?.int, window < length
    else { return }
    warnings.append(
      .init(
        .compatibility,
        "\(path: place): its layers see \(window) tokens at most; llama.cpp lets them see all, so contexts longer than that give other results"
      ))
  }

  /// Whether the file says which layers see a window.
  private var hasWindows: Bool { ["gemma2", "gemma3", "phi3", "modern-bert", "gpt-oss"].contains(architecture) || config.modelType == "olmo3" }

  /// llama.cpp lets every second layer of a Gemma 2 see all tokens, and every sixth of a Gemma 3.
  private func checkGemmaWindows() throws {
    let layers = try config.whole(["num_hidden_layers"]) ?? 0, period = architecture == "gemma2" ? 2 : 6
    guard config.value(["sliding_window"]) != nil, (0...1 << 16).contains(layers) else { return }
    let every = try architecture == "gemma2" ? 2 : config.whole(["sliding_window_pattern"]) ?? 6
    let usual = (0..<layers).map { ($0 + 1) % period != 0 }
    guard every > 0, try config.slidingLayers(layers) ?? (0..<layers).map({ ($0 + 1) % every != 0 }) == usual else {
      throw NibbleError.usage("\(path: place): other layers than every \(period == 2 ? "second" : "sixth") see all tokens, which llama.cpp does not have")
    }
  }

  private func checkModernBert() throws {
    for name in ["norm_bias", "attention_bias", "mlp_bias", "classifier_bias"] where config.config[name]?.bool == true {
      throw NibbleError.usage("\(path: place): \(key: name) is true, which llama.cpp does not have")
    }
    if let pooling = config.config["classifier_pooling"]?.string, pooling == "cls" || pooling == "mean" { return }
    guard config.config["classifier_pooling"] == nil else {
      throw NibbleError.usage("\(path: place): \(key: "classifier_pooling") is neither cls nor mean")
    }
  }
}
