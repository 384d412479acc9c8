import Glibc
import NibbleCore

/// The numbers of a model as GGUF has them, under its architecture's name: those `convert_hf_to_gguf.py` writes, in its order.
struct ModelKeys {
  private let config: HuggingFaceNumbers
  private let architecture: String
  private let place: String
  /// What llama.cpp would compute in another way than the model does, without saying so.
  private(set) var warnings: [Warning] = []

  init(_ config: HuggingFaceNumbers, architecture: String, place: String) throws {
    (self.config, self.architecture, self.place) = (config, architecture, place)
    try checkActivation()
    try checkPositions()
    checkWindows()
  }

  private func key(_ name: String) -> String { "\(architecture).\(name)" }

  /// - Parameters:
  ///   - fileType: llama.cpp's number for what most tensors are
  ///   - labels: names of classes, where the model has a head
  ///   - pooling: 1 for the mean, 2 for the first token, 3 for the last; nil where nothing says
  func write(fileType: Int, labels: [String]?, pooling: UInt32?, _ out: inout GgufMetadata) throws {
    switch architecture {
    case "gpt2": try writeGPT2(fileType, &out)
    case "gemma", "gemma2": try writeGemma(fileType, &out)
    default: try writeUsual(fileType, &out)
    }
    switch architecture {
    case "llama", "smollm3", "granite": try writeLlama(&out)
    case "bert": out[key("attention.causal")] = .bool(false)
    default: break
    }
    if let pooling { out[key("pooling_type")] = .u32(pooling) }
    if let labels { out[key("classifier.output_labels")] = .texts(labels) }
  }

  private func writeUsual(_ fileType: Int, _ out: inout GgufMetadata) throws {
    out[key("block_count")] = .u32(try config.needed(["num_hidden_layers"]))
    if let length = try config.u32(["max_position_embeddings"]) {
      let left = config.modelType.hasSuffix("roberta") ? LlamaCppNames.positionsLeftOut(config.config) ?? 0 : 0
      guard length > left else { throw NibbleError.badInput("\(path: place): max_position_embeddings is \(length)") }
      out[key("context_length")] = .u32(length - UInt32(left))
    }
    out[key("embedding_length")] = .u32(try config.needed(["hidden_size"]))
    out[key("feed_forward_length")] = .u32(try config.needed(["intermediate_size"]))
    out[key("attention.head_count")] = .u32(try config.needed(["num_attention_heads"]))
    if let heads = try config.keyHeads() { out[key("attention.head_count_kv")] = .u32(heads) }
    if config.value(["is_causal"])?.bool == false { out[key("attention.causal")] = .bool(false) }
    if let rope = try RopeNumbers(config, place) { try rope.write(key, &out) }
    if let epsilon = try config.float(["rms_norm_eps"]) { out[key("attention.layer_norm_rms_epsilon")] = .f32(epsilon) }
    if let epsilon = try config.float(["layer_norm_eps"]) { out[key("attention.layer_norm_epsilon")] = .f32(epsilon) }
    if architecture != "granite", let size = try headSize(always: false) {
      out[key("attention.key_length")] = .u32(size)
      out[key("attention.value_length")] = .u32(size)
    }
    out["general.file_type"] = .u32(UInt32(fileType))
  }

  private func writeLlama(_ out: inout GgufMetadata) throws {
    out[key("vocab_size")] = .u32(try config.needed(["vocab_size"]))
    if let size = try headSize(always: true) { out[key("rope.dimension_count")] = .u32(size) }
    guard architecture == "granite" else { return }
    for (name, own) in [
      ("attention.scale", "attention_multiplier"), ("embedding_scale", "embedding_multiplier"), ("residual_scale", "residual_multiplier"),
      ("logit_scale", "logits_scaling"),
    ] {
      if let value = try config.float([own]), value != 0 { out[key(name)] = .f32(value) }
    }
  }

  /// - Parameter always: computes it of the widths where the configuration does not have it
  private func headSize(always: Bool) throws -> UInt32? {
    if architecture != "granite", let size = try config.u32(["head_dim"]) { return size }
    guard always || ["llama", "mistral"].contains(config.modelType) else { return nil }
    let heads = try config.needed(["num_attention_heads"])
    guard heads > 0 else { throw NibbleError.badInput("\(path: place): num_attention_heads is 0") }
    return try config.needed(["hidden_size"]) / heads
  }

  private func writeGPT2(_ fileType: Int, _ out: inout GgufMetadata) throws {
    let width = try config.needed(["n_embd", "hidden_size"])
    out[key("block_count")] = .u32(try config.needed(["n_layer", "num_hidden_layers"]))
    out[key("context_length")] = .u32(try config.needed(["n_ctx", "n_positions"]))
    out[key("embedding_length")] = .u32(width)
    out[key("feed_forward_length")] = .u32(try config.u32(["n_inner"]) ?? width.multipliedReportingOverflow(by: 4).partialValue)
    out[key("attention.head_count")] = .u32(try config.needed(["n_head", "num_attention_heads"]))
    if let epsilon = try config.float(["layer_norm_epsilon"]) { out[key("attention.layer_norm_epsilon")] = .f32(epsilon) }
    out["general.file_type"] = .u32(UInt32(fileType))
  }

  private func writeGemma(_ fileType: Int, _ out: inout GgufMetadata) throws {
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
    guard architecture == "gemma2" else { return }
    if let cap = try config.float(["attn_logit_softcapping"]) { out[key("attn_logit_softcapping")] = .f32(cap) }
    if let cap = try config.float(["final_logit_softcapping"]) { out[key("final_logit_softcapping")] = .f32(cap) }
    if let window = try config.u32(["sliding_window"]) { out[key("attention.sliding_window")] = .u32(window) }
  }

  // MARK: - What llama.cpp does otherwise

  /// Activations that llama.cpp's code has for an architecture.
  private var activations: Set<String> {
    switch architecture {
    case "gpt2": ["gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu"]
    case "bert": ["gelu", "gelu_new", "gelu_pytorch_tanh"]
    case "gemma", "gemma2": ["gelu_pytorch_tanh", "gelu", "gelu_new"]
    default: ["silu", "swish"]
    }
  }

  private func checkActivation() throws {
    for name in ["hidden_activation", "hidden_act", "activation_function"] {
      guard let value = config.config[name], value != .null else { continue }
      guard let text = value.string, activations.contains(text) else {
        throw NibbleError.usage(
          "\(path: place): \(key: name) is \(quoted(value.string ?? value.text())); llama.cpp computes \(quoted(architecture)) with \(activations.sorted().joined(separator: " or ")) only"
        )
      }
      return
    }
  }

  private func checkPositions() throws {
    if let type = config.config["position_embedding_type"]?.string, type != "absolute" {
      throw NibbleError.usage("\(path: place): \(key: "position_embedding_type") is \(quoted(type)), which llama.cpp does not have")
    }
    for name in ["scale_attn_by_inverse_layer_idx", "add_cross_attention", "is_encoder_decoder"] where config.config[name]?.bool == true {
      throw NibbleError.usage("\(path: place): \(key: name) is true, which llama.cpp does not have")
    }
    if architecture == "gemma2", let scale = config.value(["query_pre_attn_scalar"])?.double, let size = try config.whole(["head_dim"]) {
      // The model of 27 billion weights, which llama.cpp knows by its layers, has the width by heads.
      let layers = try config.whole(["num_hidden_layers"]) ?? 0
      let heads = max(1, try config.whole(["num_attention_heads"]) ?? 1), width = try config.whole(["hidden_size"]) ?? 0
      let own = layers == 46 ? Double(width / heads) : Double(size)
      guard scale == own else {
        throw NibbleError.usage("\(path: place): \(key: "query_pre_attn_scalar") is \(scale); llama.cpp computes with \(own)")
      }
    }
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

  private mutating func checkWindows() {
    guard architecture != "gemma2", let window = config.config["sliding_window"]?.int, config.config["use_sliding_window"]?.bool != false,
      let length = config.value(["max_position_embeddings"])?.int, window < length
    else { return }
    warnings.append(
      .init(
        .compatibility,
        "\(path: place): its layers see \(window) tokens at most; llama.cpp lets them see all, so contexts longer than that give other results"
      ))
  }
}

/// Rotary positions as GGUF has them.
struct RopeNumbers {
  private let values: JSON
  private let config: HuggingFaceNumbers
  private let place: String

  /// - Returns: nil for models without
  init?(_ config: HuggingFaceNumbers, _ place: String) throws {
    guard config.modelType != "gpt2", !["bert", "roberta", "xlm-roberta"].contains(config.modelType) else { return nil }
    (self.config, self.place) = (config, place)
    func object(_ value: JSON?) -> JSON? { value?.members?.isEmpty == false ? value : nil }
    // As in transformers: where both are, `rope_scaling` counts.
    let found = object(config.config["rope_scaling"]) ?? object(config.config["rope_parameters"]) ?? .object([])
    values = object(found["full_attention"]) ?? found
  }

  /// `default`, `linear`, `llama3` …
  var type: String { (values["rope_type"] ?? values["type"])?.string ?? "default" }

  private func number(_ key: String) throws -> Double? {
    guard let value = values[key] ?? config.config[key], value != .null else { return nil }
    guard let number = value.double, number.isFinite else { throw NibbleError.badInput("\(path: place): \(key: key) is \(quoted(value.string ?? value.text()))") }
    return number
  }

  private var base: Double { get throws { try number("rope_theta") ?? (config.modelType == "smollm3" ? 2_000_000 : 10_000) } }

  func write(_ key: (String) -> String, _ out: inout GgufMetadata) throws {
    func set(_ name: String, _ own: String) throws { if let value = try number(own) { out[key("rope.scaling." + name)] = .f32(Float(value)) } }
    let isScaled = try number("factor") != nil
    switch type {
    case "default", "llama3": break
    case "linear" where isScaled:
      out[key("rope.scaling.type")] = .text("linear")
      try set("factor", "factor")
    case "yarn" where isScaled:
      out[key("rope.scaling.type")] = .text("yarn")
      try set("factor", "factor")
      guard let length = try number("original_max_position_embeddings") ?? config.value(["max_position_embeddings"])?.double,
        let whole = UInt32(exactly: length)
      else { throw NibbleError.badInput("\(path: place): yarn without \(key: "original_max_position_embeddings")") }
      out[key("rope.scaling.original_context_length")] = .u32(whole)
      try set("yarn_ext_factor", "extrapolation_factor")
      try set("yarn_attn_factor", values["attention_factor"] == nil ? "attn_factor" : "attention_factor")
      try set("yarn_beta_fast", "beta_fast")
      try set("yarn_beta_slow", "beta_slow")
    case let other:
      throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(other)), which llama.cpp does not have for this architecture")
    }
    out[key("rope.freq_base")] = .f32(Float(try base))
  }

  /// What each frequency is divided by in Llama 3's models; nil for others. llama.cpp has it as a tensor.
  ///
  /// Computed in float32, as transformers' `_compute_llama3_parameters` and the converter have it.
  func factors(headSize: Int) throws -> [Float]? {
    guard type == "llama3" else { return nil }
    let (base, factor) = (Float(try base), Float(try number("factor") ?? 8))
    let (low, high) = (try number("low_freq_factor") ?? 1, try number("high_freq_factor") ?? 4)
    let length = try number("original_max_position_embeddings") ?? 8192
    guard low != 0, high != 0, high != low, factor != 0 else { throw NibbleError.badInput("\(path: place): its llama3 factors make no sense") }
    return stride(from: 0, to: headSize, by: 2).map { place in
      let frequency = 1 / powf(base, Float(place) / Float(headSize))
      let wave = Float(2 * Double.pi) / frequency
      if wave < Float(length / high) { return 1 }
      if wave > Float(length / low) { return factor }
      let smooth = (Float(length) / wave - Float(low)) / Float(high - low)
      return 1 / ((1 - smooth) / factor + smooth)
    }
  }
}
