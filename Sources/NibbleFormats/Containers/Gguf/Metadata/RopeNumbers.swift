import Glibc
import NibbleCore

/// Rotary positions as GGUF has them.
struct RopeNumbers {
  private let values: JSON
  /// Those of layers that see a window, where they have their own.
  private let sliding: JSON
  private let config: HuggingFaceNumbers
  private let place: String

  /// - Returns: nil for models without
  init?(_ config: HuggingFaceNumbers, _ place: String) throws {
    guard !["gpt2", "bert", "roberta", "xlm-roberta", "distilbert", "t5", "mt5"].contains(config.modelType) else { return nil }
    (self.config, self.place) = (config, place)
    for key in ["rope_scaling", "rope_parameters"] {
      guard let value = config.config[key], value != .null, value.members == nil else { continue }
      throw NibbleError.badInput("\(path: place): \(key: key) is no object")
    }
    func object(_ value: JSON?) -> JSON? { value?.members?.isEmpty == false ? value : nil }
    // As in transformers: where both are, `rope_scaling` counts.
    let isSilent = config.config["rope_parameters"] ?? .null == .null, usual = ["gpt_oss": Self.gptOss, "ministral3": Self.ministral3][config.modelType]
    let found = object(config.config["rope_scaling"]) ?? object(config.config["rope_parameters"]) ?? (isSilent ? usual : nil) ?? .object([])
    values = object(found["full_attention"]) ?? found
    sliding = object(found["sliding_attention"]) ?? .object([])
  }

  /// What transformers scales gpt-oss's positions with where nothing says it.
  private static let gptOss: JSON = [
    "rope_type": "yarn", "factor": 32, "beta_fast": 32, "beta_slow": 1, "truncate": false, "original_max_position_embeddings": 4096,
  ]

  /// The same of Ministral 3's.
  private static let ministral3: JSON = [
    "rope_type": "yarn", "rope_theta": 1_000_000, "factor": 16, "original_max_position_embeddings": 16384, "beta_fast": 32, "beta_slow": 1,
    "mscale_all_dim": 1, "mscale": 1, "llama_4_scaling_beta": JSON(0.1),
  ]

  /// Whether the bounds of yarn's positions are not rounded to whole numbers, as llama.cpp rounds them.
  var hasExactBounds: Bool { type == "yarn" && values["truncate"]?.bool == false }

  /// `default`, `linear`, `llama3` …
  var type: String { (values["rope_type"] ?? values["type"])?.string ?? "default" }

  func number(_ key: String) throws -> Double? {
    guard let value = values[key] ?? config.config[key], value != .null else { return nil }
    guard let number = value.double, number.isFinite else { throw NibbleError.badInput("\(path: place): \(key: key) is \(quoted(value.string ?? value.text()))") }
    return number
  }

  /// What transformers takes where the configuration says none.
  private static let bases: [String: Double] = [
    "smollm3": 2_000_000, "gemma3_text": 1_000_000, "modernbert": 160_000, "olmo3": 500_000, "mixtral": 1_000_000,
    "gpt_oss": 150_000, "llama4_text": 500_000,
  ]

  /// θ of most layers.
  var base: Double {
    get throws {
      let outer = ["gpt_neox": "rotary_emb_base", "modernbert": "global_rope_theta"][config.modelType] ?? "rope_theta"
      return try (values["rope_theta"] == nil ? number(outer) : number("rope_theta")) ?? Self.bases[config.modelType] ?? 10_000
    }
  }

  /// θ of layers that see a window; nil for models where all layers have one.
  private var slidingBase: Double? {
    get throws {
      let kinds: [String: (key: String, usual: Double)] = [
        "gemma3_text": ("rope_local_base_freq", 10_000), "modernbert": ("local_rope_theta", 10_000), "olmo3": ("", 500_000),
      ]
      guard let kind = kinds[config.modelType] else { return nil }
      guard (sliding["rope_type"] ?? sliding["type"])?.string ?? "default" == "default" else {
        throw NibbleError.usage("\(path: place): positions of layers with a window are scaled, which llama.cpp does not have")
      }
      return try sliding["rope_theta"]?.double ?? number(kind.key) ?? kind.usual
    }
  }

  /// What part of a head is turned.
  func part(default usual: Double) throws -> Double {
    try number("partial_rotary_factor") ?? number("rotary_pct") ?? number("rope_pct") ?? usual
  }

  func write(_ key: (String) -> String, _ out: inout GgufMetadata) throws {
    func set(_ name: String, _ own: String) throws { if let value = try number(own) { out[key("rope.scaling." + name)] = .f32(Float(value)) } }
    let isScaled = try number("factor") != nil
    switch type {
    case "default": break
    // As a tensor, which llama.cpp's code for these asks for.
    case "llama3" where ["llama", "mistral", "mixtral", "granite", "granitemoehybrid", "llama4_text"].contains(config.modelType): break
    case "linear" where isScaled:
      out[key("rope.scaling.type")] = .text("linear")
      try set("factor", "factor")
    case "yarn" where isScaled:
      guard values["truncate"]?.bool != false || config.modelType == "gpt_oss" else {
        throw NibbleError.usage("\(path: place): \(key: "truncate") is false; llama.cpp rounds the bounds of yarn's positions to whole numbers")
      }
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
    if let base = try slidingBase { out[key("rope.freq_base_swa")] = .f32(Float(base)) }
  }

  /// θ alone, of architectures whose positions have nothing else. The converter leaves it out, and llama.cpp takes 10,000 then.
  func writeBase(_ key: (String) -> String, _ out: inout GgufMetadata) throws {
    guard type == "default" else {
      throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(type)), which llama.cpp does not have for this architecture")
    }
    let base = try base
    if base != 10_000 { out[key("rope.freq_base")] = .f32(Float(base)) }
  }

  /// What each frequency is divided by in Llama 3's models; nil for others. llama.cpp has it as a tensor.
  ///
  /// Computed in float32, as transformers' `_compute_llama3_parameters` and the converter have it.
  func factors(headSize: Int) throws -> [Float]? {
    guard type == "llama3" else { return nil }
    let (base, factor) = (Float(try base), Float(try number("factor") ?? 8))
    let (low, high) = (try number("low_freq_factor") ?? 1, try number("high_freq_factor") ?? 4)
    let length = try number("original_max_position_embeddings") ?? 8192
    guard low != 0, high != 0, factor != 0 else { throw NibbleError.badInput("\(path: place): its llama3 factors make no sense") }
    return stride(from: 0, to: headSize, by: 2).map { place in
      let frequency = 1 / powf(base, Float(place) / Float(headSize))
      let wave = Float(2 * Double.pi) / frequency
      if wave < Float(length / high) { return 1 }
      if wave > Float(length / low) { return factor }
      // Llama 4's two are the same: nothing lies between.
      if high == low { return 1 }
      let smooth = (Float(length) / wave - Float(low)) / Float(high - low)
      return 1 / ((1 - smooth) / factor + smooth)
    }
  }

  /// What YaRN's temperature for all numbers of a head is scaled with.
  var temperature: Double? { get throws { try values["mscale_all_dim"] == nil ? nil : number("mscale_all_dim") } }

  /// llama.cpp's attention through latents has YaRN's temperature in the product of queries and keys only.
  func checkLatents() throws {
    guard type != "default" else { return }
    guard type == "yarn" else { throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(type)), which llama.cpp does not have for this architecture") }
    let (scale, all) = (try number("mscale") ?? 0, try number("mscale_all_dim") ?? 0)
    guard all != 0, try number("attention_factor") ?? (scale == all ? 1 : 0) == 1 else {
      throw NibbleError.usage(
        "\(path: place): \(key: "mscale") is \(scale), \(key: "mscale_all_dim") \(all); llama.cpp computes as if both were the same and neither 0")
    }
  }

  /// How long texts were that the model was trained on, of those that say it.
  var trainedLength: UInt32? {
    get throws {
      guard let length = try number("original_max_position_embeddings") else { return config.modelType == "phi3" ? 4096 : nil }
      guard let whole = UInt32(exactly: length) else { throw NibbleError.badInput("\(path: place): \(key: "original_max_position_embeddings") is \(length)") }
      return whole
    }
  }

  /// Phi-3's factors of each frequency, for long and for short texts, and what queries and keys are multiplied with; nil where positions are
  /// not scaled.
  ///
  /// The last is √(1 + ln(context / trained) / ln(trained)), as transformers' `_compute_longrope_parameters` and the converter have it.
  func longRoPE() throws -> (long: [Float], short: [Float], attention: Float)? {
    guard type != "default" else { return nil }
    guard ["longrope", "su"].contains(type) else {
      throw NibbleError.usage("\(path: place): \(key: "rope_type") is \(quoted(type)), which llama.cpp does not have for this architecture")
    }
    func list(_ key: String) throws -> [Float] {
      guard let numbers = values[key]?.array, !numbers.isEmpty, numbers.count <= 1 << 16, numbers.allSatisfy({ $0.double.map { Float($0).isFinite && Float($0) > 0 } ?? false })
      else {
        throw NibbleError.badInput("\(path: place): \(key: key) is no list of numbers above 0")
      }
      return numbers.map { Float($0.double ?? 0) }
    }
    let (long, short) = (try list("long_factor"), try list("short_factor"))
    guard long.count == short.count else { throw NibbleError.badInput("\(path: place): \(key: "long_factor") and short_factor differ in length") }
    if let own = try number("attention_factor") { return (long, short, Float(own)) }
    let trained = Double(try trainedLength ?? 4096)
    guard trained > 1 else { throw NibbleError.badInput("\(path: place): \(key: "original_max_position_embeddings") is \(Int(trained))") }
    let scale = Double(try config.needed(["max_position_embeddings"])) / trained
    return (long, short, scale > 1 ? Float((1 + log(scale) / log(trained)).squareRoot()) : 1)
  }
}
