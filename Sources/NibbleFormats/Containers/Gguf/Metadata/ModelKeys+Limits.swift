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
    for name in ["hidden_activation", "hidden_act", "activation_function", "activation"] {
      guard let value = config.config[name], value != .null else { continue }
      guard let text = value.string, activations.contains(text) else {
        throw NibbleError.usage(
          "\(path: place): \(key: name) is \(quoted(value.string ?? value.text())); llama.cpp computes \(quoted(architecture)) with \(activations.sorted().joined(separator: " or ")) only"
        )
      }
    }
  }

  func checkPositions() throws {
    if let type = config.config["position_embedding_type"]?.string, type != "absolute" {
      throw NibbleError.usage("\(path: place): \(key: "position_embedding_type") is \(quoted(type)), which llama.cpp does not have")
    }
    for name in ["scale_attn_by_inverse_layer_idx", "add_cross_attention", "is_encoder_decoder"] where config.config[name]?.bool == true {
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

  /// What goes with a warning.
  mutating func checkWindows() {
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
  private var hasWindows: Bool { ["gemma2", "gemma3", "phi3", "modern-bert"].contains(architecture) || config.modelType == "olmo3" }

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
