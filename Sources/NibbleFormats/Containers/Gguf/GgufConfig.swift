import Glibc
import NibbleCore
import NibbleQuant

/// What a GGUF file is as a Hugging Face model: its names there, and the `config.json` that its metadata and shapes amount to.
struct GgufSource {
  let names: LlamaCppNames
  let config: JSON

  /// What llama.cpp computes frequencies with; the configuration says it in other words.
  static let frequencies = "rope_freqs.weight"

  /// Whether a tensor is no weight of the model, and is said by the configuration.
  static func isNoWeight(_ name: String) -> Bool { name == frequencies }

  /// - Returns: nil for architectures whose names are not known
  /// - Throws: `.badInput` for metadata that says nothing a configuration can be made of
  init?(_ parts: GgufParts) throws {
    guard let architecture = parts.first.text("general.architecture") else {
      throw NibbleError.badInput("\(path: parts.first.path): \(key: "general.architecture") is missing, so this is no model")
    }
    let all = LlamaCppNames.of(architecture: architecture)
    guard let names = all.count > 1 ? Self.encoder(all, parts.first) : all.first else { return nil }
    self.names = names
    var reader = try GgufConfigReader(parts, architecture)
    config = try reader.config(of: names)
  }

  /// BERT, RoBERTa and XLM-RoBERTa are one architecture there, and differ in their tokenizers.
  private static func encoder(_ all: [LlamaCppNames], _ file: GgufFile) -> LlamaCppNames? {
    let types = ["gpt2": "roberta", "t5": "xlm-roberta"]
    let type = file.text("tokenizer.ggml.model").flatMap { types[$0] } ?? "bert"
    return all.first { $0.modelTypes.contains(type) }
  }
}

/// Makes a `config.json` of metadata, and knows in the end which of the architecture's keys it had no use for.
private struct GgufConfigReader {
  private let file: GgufFile
  private let architecture: String
  private let tensors: [String: GgufFile.Tensor]
  private let frequencies: [Float]?
  private let dtype: String
  private var used: Set<String> = []
  private var members: [(key: String, value: JSON)] = []

  init(_ parts: GgufParts, _ architecture: String) throws {
    (file, self.architecture) = (parts.first, architecture)
    tensors = Dictionary(parts.tensors.map { ($0.tensor.name, $0.tensor) }) { first, _ in first }
    let found = parts.tensors.first { $0.tensor.name == GgufSource.frequencies }
    if let found, found.tensor.shape.reduce(1, { $0.multipliedReportingOverflow(by: $1).partialValue }) > 1 << 16 {
      throw NibbleError.badInput("\(path: found.file.path): \(tensor: found.tensor.name) has the shape \(found.tensor.shape)")
    }
    frequencies = try found.map { try $0.file.floats($0.tensor) }
    // What most numbers of matrices are.
    var bytes: [String: Int] = [:]
    for tensor in tensors.values where tensor.shape.count > 1 {
      bytes[Self.dtypes[tensor.type] ?? "float32", default: 0] += tensor.range.count
    }
    dtype = bytes.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key ?? "float32"
  }

  private static let dtypes: [GGMLType: String] = [.f16: "float16", .bf16: "bfloat16"]

  // MARK: Reading

  private mutating func key(_ name: String) -> String {
    let key = "\(architecture).\(name)"
    used.insert(key)
    return key
  }

  private func fail(_ key: String, _ expected: String) -> NibbleError {
    .badInput("\(path: file.path): \(key: key) is \(file.metadata[key]?.text ?? "missing"), expected \(expected)")
  }

  /// A whole number; a list of the same number for each layer counts as that number.
  private mutating func whole(_ name: String) throws -> Int? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    if let number = file.whole(key), number >= 0 { return number }
    if file.list(key) != nil, let numbers = Optional(try file.wholes(key)), let first = numbers.first, numbers.allSatisfy({ $0 == first }) {
      return first
    }
    throw fail(key, "a whole number, the same for all layers")
  }

  private mutating func decimal(_ name: String) throws -> Double? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    guard let number = file.decimal(key), number.isFinite else { throw fail(key, "a finite number") }
    return number
  }

  private mutating func text(_ name: String) throws -> String? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    guard let text = file.text(key) else { throw fail(key, "a text") }
    return text
  }

  private mutating func needed(_ name: String) throws -> Int {
    guard let number = try whole(name), number > 0 else { throw fail(key(name), "a whole number above 0") }
    return number
  }

  private func rows(_ tensor: String) -> Int? { tensors[tensor].flatMap { $0.shape.count == 2 ? $0.shape[0] : nil } }

  private mutating func set(_ key: String, _ value: JSON) { members.append((key, value)) }
  private mutating func set(_ key: String, _ value: Int?) { if let value { set(key, JSON(value)) } }
  private mutating func set(_ key: String, _ value: Double?) { if let value { set(key, JSON(value)) } }

  // MARK: The configuration

  mutating func config(of names: LlamaCppNames) throws -> JSON {
    let type = names.modelTypes[0]
    set("model_type", JSON(type))
    set("torch_dtype", JSON(dtype))
    set("vocab_size", try rows("token_embd.weight") ?? whole("vocab_size"))
    _ = key("vocab_size")
    let ids = GgufSpecialIDs(file)
    for (name, id) in [("bos_token_id", ids.bos), ("eos_token_id", ids.eos), ("pad_token_id", ids.pad)] { set(name, id) }
    switch names.architecture {
    case "gpt2": try addGPT2()
    case "bert": try addEncoder(type)
    default: try addDecoder(type)
    }
    addUntranslated()
    return .object(members.sorted { ByteName($0.key) < ByteName($1.key) })
  }

  private mutating func addGPT2() throws {
    let width = try needed("embedding_length"), context = try rows("position_embd.weight") ?? needed("context_length")
    _ = try whole("context_length")
    set("architectures", JSON(["GPT2LMHeadModel"]))
    set("n_embd", width)
    set("n_layer", try needed("block_count"))
    set("n_head", try needed("attention.head_count"))
    set("n_positions", context)
    set("n_ctx", context)
    if let inner = try whole("feed_forward_length"), inner != 4 * width { set("n_inner", inner) }
    set("layer_norm_epsilon", try decimal("attention.layer_norm_epsilon"))
    set("activation_function", "gelu_new")
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
  }

  private mutating func addEncoder(_ type: String) throws {
    let isBert = type == "bert"
    let left = isBert ? 0 : LlamaCppNames.positionsLeftOut(.object(members)) ?? 0
    let context = try rows("position_embd.weight") ?? needed("context_length")
    _ = try whole("context_length")
    let (positions, overflow) = context.addingReportingOverflow(left)
    guard !overflow else { throw fail("\(architecture).context_length", "a length") }
    let prefix = ["bert": "Bert", "roberta": "Roberta"][type] ?? "XLMRoberta"
    let isClassifier = tensors["cls.output.weight"] != nil
    set("architectures", JSON([prefix + (isClassifier ? "ForSequenceClassification" : "Model")]))
    set("hidden_size", try needed("embedding_length"))
    set("intermediate_size", try needed("feed_forward_length"))
    set("num_hidden_layers", try needed("block_count"))
    set("num_attention_heads", try needed("attention.head_count"))
    set("max_position_embeddings", positions)
    set("layer_norm_eps", try decimal("attention.layer_norm_epsilon"))
    set("type_vocab_size", rows("token_types.weight") ?? 1)
    set("hidden_act", "gelu")
    let labels = key("classifier.output_labels")
    if isClassifier, file.metadata[labels] != nil {
      let names = try file.texts(labels)
      set("id2label", .object((0..<names.count).map { (String($0), JSON(String(decoding: names[$0], as: UTF8.self))) }))
      set("label2id", .object((0..<names.count).map { (String(decoding: names[$0], as: UTF8.self), JSON($0)) }))
    } else if isClassifier {
      set("num_labels", rows("cls.output.weight"))
    }
    _ = key("pooling_type")
    if let causal = file.metadata[key("attention.causal")], causal != .bool(false) { used.remove("\(architecture).attention.causal") }
  }

  private static let classes = [
    "llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "gemma": "Gemma", "gemma2": "Gemma2", "granite": "Granite", "olmo2": "Olmo2",
    "smollm3": "SmolLM3",
  ]

  private mutating func addDecoder(_ type: String) throws {
    let width = try needed("embedding_length"), heads = try needed("attention.head_count"), layers = try needed("block_count")
    let length = try whole("attention.key_length"), value = try whole("attention.value_length"), turned = try whole("rope.dimension_count")
    let size = length ?? (tensors["blk.0.attn_q.weight"].flatMap { $0.shape.first }.map { $0 / heads } ?? width / heads)
    if value ?? size != size { used.remove("\(architecture).attention.value_length") }
    if turned ?? size != size { set("partial_rotary_factor", Double(turned ?? size) / Double(max(1, size))) }
    set("architectures", JSON([(Self.classes[type] ?? type) + "ForCausalLM"]))
    set("hidden_size", width)
    set("intermediate_size", try needed("feed_forward_length"))
    set("num_hidden_layers", layers)
    set("num_attention_heads", heads)
    set("num_key_value_heads", try whole("attention.head_count_kv") ?? heads)
    set("head_dim", size)
    set("max_position_embeddings", try needed("context_length"))
    set("rms_norm_eps", try decimal("attention.layer_norm_rms_epsilon"))
    set("tie_word_embeddings", .bool(tensors["output.weight"] == nil))
    let isGemma = type.hasPrefix("gemma")
    set(isGemma ? "hidden_activation" : "hidden_act", isGemma ? "gelu_pytorch_tanh" : "silu")
    if tensors["blk.0.attn_q.bias"] != nil, type != "qwen2" { set("attention_bias", true) }
    if tensors["blk.0.ffn_gate.bias"] != nil { set("mlp_bias", true) }
    for (name, ours) in [
      ("logit_scale", "logits_scaling"), ("residual_scale", "residual_multiplier"), ("embedding_scale", "embedding_multiplier"),
      ("attention.scale", "attention_multiplier"), ("attn_logit_softcapping", "attn_logit_softcapping"),
      ("final_logit_softcapping", "final_logit_softcapping"),
    ] { set(ours, try decimal(name)) }
    if isGemma, type == "gemma2" {
      // llama.cpp scales by the size of a head but in the model of 46 layers.
      set("query_pre_attn_scalar", layers == 46 ? width / heads : size)
      set("sliding_window", try whole("attention.sliding_window"))
    }
    if let experts = try whole("expert_count"), experts > 0 { set("num_local_experts", experts) }
    if let experts = try whole("expert_used_count"), experts > 0 { set("num_experts_per_tok", experts) }
    try addRotation(size: turned ?? size)
  }

  private mutating func addRotation(size: Int) throws {
    let base = try decimal("rope.freq_base") ?? 10_000
    set("rope_theta", base)
    let kind = try text("rope.scaling.type") ?? "none"
    let said = try decimal("rope.scaling.factor")
    let factor = try said ?? decimal("rope.scale_linear") ?? 1
    let trained = try whole("rope.scaling.original_context_length")
    _ = key("rope.scaling.finetuned")
    if let frequencies {
      set("rope_scaling", Llama3Scaling(frequencies, base: base, size: size).map(\.json) ?? ["rope_type": JSON(GgufSource.frequencies)])
    } else if kind == "yarn" {
      var scaling: [(key: String, value: JSON)] = [("rope_type", "yarn"), ("factor", JSON(factor))]
      if let trained { scaling.append(("original_max_position_embeddings", JSON(trained))) }
      for (name, ours) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
        if let number = try decimal("rope.scaling." + name) { scaling.append((ours, JSON(number))) }
      }
      if let number = try decimal("rope.scaling.yarn_attn_factor") ?? decimal("rope.scaling.attn_factor") { scaling.append(("attention_factor", JSON(number))) }
      set("rope_scaling", .object(scaling))
    } else if kind != "none", kind != "linear" {
      set("rope_scaling", ["rope_type": JSON(kind)])
    } else if factor != 0, factor != 1 || kind == "linear" && said != nil {
      set("rope_scaling", ["rope_type": "linear", "factor": JSON(factor)])
    }
  }

  /// Keys of the architecture that are no part of what was made, and may be what makes this another model.
  private mutating func addUntranslated() {
    let harmless: [String: [GgufFile.Value]] = [
      "tensor_data_layout": [], "attention.causal": [.bool(true)], "attention.max_alibi_bias": [.single(0)],
      "attention.clamp_kqv": [.single(0)], "use_parallel_residual": [.bool(false)], "expert_shared_count": [.whole(0)],
    ]
    let left = file.metadata.keys.filter { key in
      guard key.hasPrefix(architecture + "."), !used.contains(key), let value = file.metadata[key] else { return false }
      let allowed = harmless[String(key.dropFirst(architecture.count + 1))]
      return allowed.map { !$0.isEmpty && !$0.contains(value) } ?? true
    }
    if !left.isEmpty { set(GgufUntranslated.key, JSON(left.sorted { ByteName($0) < ByteName($1) })) }
  }
}

/// Where a configuration that was made of a GGUF file says which keys of its architecture it does not tell.
package enum GgufUntranslated {
  package static let key = "untranslated_gguf_keys"
}

/// The parameters of Llama 3's rotary positions, found again in the factors by which llama.cpp divides frequencies.
///
/// transformers' `_compute_llama3_parameters`: waves shorter than c/high keep their frequency, those longer than c/low have it divided by
/// `factor`, those between are mixed with s = (c/wave − low) / (high − low), of which 1 / ((1 − s)/factor + s) is what divides.
private struct Llama3Scaling {
  let factor, low, high: Double
  let trained: Int

  /// - Returns: nil where no parameters give these factors
  init?(_ factors: [Float], base: Double, size: Int) {
    guard size > 0, factors.count == size / 2, let last = factors.last, last >= 1 else { return nil }
    let factor = Double(last.description) ?? Double(last)
    let waves = (0..<factors.count).map { 2 * Double.pi * pow(base, Double(2 * $0) / Double(size)) }
    // Only c/low and c/high count, so low may be 1; Llama 3's own parameters need no two factors between.
    var found = (low: 1.0, high: 4.0, trained: 8192)
    if !Self.fits(factors, waves, factor, found) {
      let mixed = factors.indices.filter { factors[$0] > 1 && factors[$0] < last }
      guard let first = mixed.first, let second = mixed.last, first != second, factor > 1 else { return nil }
      // s = a/wave − b between them, with a = c / (high − low) and b = low / (high − low).
      func s(_ index: Int) -> Double { (1 / Double(factors[index]) - 1 / factor) / (1 - 1 / factor) }
      let a = (s(first) - s(second)) / (1 / waves[first] - 1 / waves[second])
      let b = a / waves[first] - s(first)
      guard let trained = Int(exactly: (a / b).rounded()), (1...1 << 26).contains(trained) else { return nil }
      found = (1, ((1 + 1 / b) * 1e4).rounded() / 1e4, trained)
      guard found.high > 1, Self.fits(factors, waves, factor, found) else { return nil }
    }
    self.init(factor: factor, found)
  }

  private init(factor: Double, _ found: (low: Double, high: Double, trained: Int)) {
    (self.factor, low, high, trained) = (factor, found.low, found.high, found.trained)
  }

  private static func fits(_ factors: [Float], _ waves: [Double], _ factor: Double, _ found: (low: Double, high: Double, trained: Int)) -> Bool {
    zip(factors, waves).allSatisfy { divisor, wave in
      let c = Double(found.trained)
      let s = (c / wave - found.low) / (found.high - found.low)
      let expected = wave < c / found.high ? 1 : wave > c / found.low ? factor : 1 / ((1 - s) / factor + s)
      return abs(Double(divisor) - expected) <= 2e-5 * expected
    }
  }

  var json: JSON {
    [
      "rope_type": "llama3", "factor": JSON(factor), "low_freq_factor": JSON(low), "high_freq_factor": JSON(high),
      "original_max_position_embeddings": JSON(trained),
    ]
  }
}
