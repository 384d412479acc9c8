import NibbleCore

/// The numbers of a model as GGUF has them, under its architecture's name: those `convert_hf_to_gguf.py` writes, in its order.
struct ModelKeys {
  let config: HuggingFaceNumbers
  let architecture: String
  let place: String
  /// What llama.cpp would compute in another way than the model does, without saying so.
  var warnings: [Warning] = []

  init(_ config: HuggingFaceNumbers, architecture: String, place: String) throws {
    (self.config, self.architecture, self.place) = (config, architecture, place)
    try checkHeads()
    try checkTie()
    try checkActivation()
    try checkPositions()
    try checkExperts()
    try checkT5()
    checkWindows()
  }

  func key(_ name: String) -> String { "\(architecture).\(name)" }

  /// - Parameters:
  ///   - fileType: llama.cpp's number for what most tensors are
  ///   - labels: names of classes, where the model has a head
  ///   - pooling: 1 for the mean, 2 for the first token, 3 for the last; nil where nothing says
  func write(fileType: Int, labels: [String]?, pooling: UInt32?, _ out: inout GgufMetadata) throws {
    switch architecture {
    case "gpt2": try writeGPT2(fileType, &out)
    case "t5": try writeT5(fileType, &out)
    case "gemma", "gemma2": try writeGemma(fileType, &out)
    case "phi2": try writePhi2(fileType, &out)
    case "phi3": try writePhi3(fileType, &out)
    case "chatglm": try writeChatGLM(fileType, &out)
    case "gptneox": try writeGPTNeoX(&out)
    case "falcon": try writeFalcon(fileType, &out)
    default: try writeUsual(fileType, &out)
    }
    switch architecture {
    case "llama", "smollm3", "granite", "mistral3", "llama4": try writeLlama(&out)
    case "qwen3moe": out[key("expert_feed_forward_length")] = .u32(try config.needed(["moe_intermediate_size"]))
    case "qwen2moe":
      out[key("expert_feed_forward_length")] = .u32(try config.needed(["moe_intermediate_size"]))
      out[key("expert_shared_feed_forward_length")] = .u32(try config.needed(["shared_expert_intermediate_size"]))
    case "gpt-oss":
      out[key("attention.sliding_window")] = .u32(try config.needed(["sliding_window"]))
      out[key("expert_feed_forward_length")] = .u32(try config.needed(["intermediate_size"]))
    case "glm4moe": try writeGlm4Moe(&out)
    case "deepseek2": try writeDeepseek(&out)
    case "glm4": out[key("rope.dimension_count")] = .u32(try turned(default: 0.5))
    case "gemma3": try writeGemma3(&out)
    case "olmo2" where config.modelType == "olmo3": try writeOlmo3(&out)
    case "bert", "modern-bert": out[key("attention.causal")] = .bool(false)
    default: break
    }
    if let pooling { out[key("pooling_type")] = .u32(pooling) }
    if architecture == "modern-bert" {
      out[key("classifier.pooling_type")] = .u32(config.config["classifier_pooling"]?.string == "mean" ? 1 : 2)
    }
    if let labels { out[key("classifier.output_labels")] = .texts(labels) }
    if architecture == "modern-bert" { try writeModernBert(&out) }
  }

  private func writeUsual(_ fileType: Int, _ out: inout GgufMetadata) throws {
    if config.modelType == "distilbert" { out[key("attention.layer_norm_epsilon")] = .f32(1e-12) }
    let further = try LlamaCppNames.of(modelType: config.modelType).map { try config.furtherLayers($0) } ?? 0
    let (layers, overflow) = try config.needed(["num_hidden_layers", "n_layers"]).addingReportingOverflow(UInt32(further))
    guard !overflow else { throw NibbleError.badInput("\(path: place): num_hidden_layers is \(UInt32.max)") }
    out[key("block_count")] = .u32(layers)
    if let length = try config.u32(["max_position_embeddings"]) {
      let left = config.modelType.hasSuffix("roberta") ? LlamaCppNames.positionsLeftOut(config.config) ?? 0 : 0
      guard length > left else { throw NibbleError.badInput("\(path: place): max_position_embeddings is \(length)") }
      out[key("context_length")] = .u32(length - UInt32(left))
    }
    out[key("embedding_length")] = .u32(try config.needed(["hidden_size", "dim"]))
    out[key("feed_forward_length")] = .u32(try config.needed(Self.inner[config.modelType] ?? ["intermediate_size", "hidden_dim"]))
    out[key("attention.head_count")] = .u32(try config.needed(["num_attention_heads", "n_heads"]))
    if let heads = try isLatent ? 1 : config.keyHeads() { out[key("attention.head_count_kv")] = .u32(heads) }
    if config.value(["is_causal"])?.bool == false { out[key("attention.causal")] = .bool(false) }
    if let rope = try RopeNumbers(config, place) { try rope.write(key, &out) }
    if let epsilon = try config.float(["rms_norm_eps", "norm_eps"]) { out[key("attention.layer_norm_rms_epsilon")] = .f32(epsilon) }
    if let epsilon = try config.float(Self.epsilons) { out[key("attention.layer_norm_epsilon")] = .f32(epsilon) }
    if let experts = try config.experts() {
      out[key("expert_count")] = .u32(UInt32(clamping: experts))
      out[key("expert_used_count")] = .u32(try config.needed(["num_experts_per_tok"]))
      try writeRouter(&out)
    }
    if config.modelType == "granitemoehybrid" { (out[key("expert_count")], out[key("expert_used_count")]) = (.u32(0), .u32(0)) }
    // Where heads are sizes of their own, these keep their place for what is written later.
    if architecture != "granite", let size = try isLatent ? 0 : headSize(always: false) {
      out[key("attention.key_length")] = .u32(size)
      out[key("attention.value_length")] = .u32(size)
    }
    out["general.file_type"] = .u32(UInt32(fileType))
  }

  /// What families call the numbers between the projections of an MLP.
  private static let inner = ["granitemoehybrid": ["shared_intermediate_size"], "llama4_text": ["intermediate_size_mlp"]]

  /// Those of layer norms. ModernBERT's own name comes last: the converter takes it for that of RMS norms.
  static let epsilons = ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps"]

  private func writeLlama(_ out: inout GgufMetadata) throws {
    out[key("vocab_size")] = .u32(try config.needed(["vocab_size"]))
    if let size = try headSize(always: true) { out[key("rope.dimension_count")] = .u32(size) }
    if config.modelType == "ministral3" { try writeMinistral3(&out) }
    if architecture == "llama4" {
      out[key("interleave_moe_layer_step")] = .u32(try config.needed(["interleave_moe_layer_step"]))
      out[key("expert_feed_forward_length")] = .u32(try config.needed(["intermediate_size"]))
    }
    guard architecture == "granite" else { return }
    for (name, own) in [
      ("attention.scale", "attention_multiplier"), ("embedding_scale", "embedding_multiplier"), ("residual_scale", "residual_multiplier"),
      ("logit_scale", "logits_scaling"),
    ] {
      if let value = try config.float([own]), value != 0 { out[key(name)] = .f32(value) }
    }
    if config.modelType == "granitemoehybrid" { try writeGranite4(&out) }
  }

  /// - Parameter always: computes it of the widths where the configuration does not have it
  private func headSize(always: Bool) throws -> UInt32? {
    if architecture != "granite", let size = try config.u32(["head_dim"]) { return size }
    guard always || ["llama", "mistral"].contains(config.modelType) else { return nil }
    let heads = try config.needed(["num_attention_heads"])
    guard heads > 0 else { throw NibbleError.badInput("\(path: place): num_attention_heads is 0") }
    return try config.needed(["hidden_size"]) / heads
  }
}
