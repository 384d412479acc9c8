import NibbleCore
import NibbleQuant

/// Makes a `config.json` of metadata, and knows in the end which of the architecture's keys it had no use for.
struct GgufConfigReader {
  let file: GgufFile
  let architecture: String
  let tensors: [String: GgufFile.Tensor]
  /// What positions are computed with, by the names of tensors.
  let factors: [String: [Float]]
  private let dtype: String
  var used: Set<String> = []
  /// Keys that make it another model than its names say.
  private var contrary: Set<String> = []
  private(set) var members: [(key: String, value: JSON)] = []

  init(_ parts: GgufParts, _ architecture: String) throws {
    (file, self.architecture) = (parts.first, architecture)
    tensors = Dictionary(parts.tensors.map { ($0.tensor.name, $0.tensor) }) { first, _ in first }
    var factors: [String: [Float]] = [:]
    for part in parts.tensors where GgufSource.isNoWeight(part.tensor.name) {
      guard (elementCount(of: part.tensor.shape) ?? .max) <= 1 << 16 else {
        throw NibbleError.badInput("\(path: part.file.path): \(tensor: part.tensor.name) has the shape \(part.tensor.shape)")
      }
      factors[part.tensor.name] = try part.file.floats(part.tensor)
    }
    self.factors = factors
    // What most numbers of matrices are.
    var bytes: [String: Int] = [:]
    for tensor in tensors.values where tensor.shape.count > 1 {
      bytes[Self.dtypes[tensor.type] ?? "float32", default: 0] += tensor.range.count
    }
    dtype = bytes.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key ?? "float32"
  }

  private static let dtypes: [GGMLType: String] = [.f16: "float16", .bf16: "bfloat16"]

  // MARK: Reading

  mutating func key(_ name: String) -> String {
    let key = "\(architecture).\(name)"
    used.insert(key)
    return key
  }

  func fail(_ key: String, _ expected: String) -> NibbleError {
    .badInput("\(path: file.path): \(key: key) is \(file.metadata[key]?.text ?? "missing"), expected \(expected)")
  }

  /// A whole number; a list of the same number for each layer counts as that number.
  mutating func whole(_ name: String) throws -> Int? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    if let number = file.whole(key), number >= 0 { return number }
    if file.list(key) != nil, let numbers = Optional(try file.wholes(key)), let first = numbers.first, numbers.allSatisfy({ $0 == first }) {
      return first
    }
    throw fail(key, "a whole number, the same for all layers")
  }

  mutating func decimal(_ name: String) throws -> Double? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    guard let number = file.decimal(key), number.isFinite else { throw fail(key, "a finite number") }
    return number
  }

  mutating func text(_ name: String) throws -> String? {
    let key = key(name)
    guard file.metadata[key] != nil else { return nil }
    guard let text = file.text(key) else { throw fail(key, "a text") }
    return text
  }

  mutating func needed(_ name: String) throws -> Int {
    guard let number = try whole(name), number > 0 else { throw fail(key(name), "a whole number above 0") }
    return number
  }

  mutating func layerCount() throws -> Int {
    let layers = try needed("block_count")
    guard layers <= 1 << 16 else { throw fail("\(architecture).block_count", "at most 65536") }
    return layers
  }

  /// Notes that what a key says is not what the model computes.
  mutating func refuse(_ name: String) { contrary.insert(key(name)) }

  /// Notes that attention looks both ways, as encoders have it.
  mutating func expectNotCausal() {
    let name = key("attention.causal")
    if let causal = file.metadata[name], causal != .bool(false) { used.remove(name) }
  }

  func rows(_ tensor: String) -> Int? { tensors[tensor].flatMap { $0.shape.count == 2 ? $0.shape[0] : nil } }

  func columns(_ tensor: String) -> Int? { tensors[tensor].flatMap { $0.shape.count == 2 ? $0.shape[1] : nil } }

  mutating func set(_ key: String, _ value: JSON) { members.append((key, value)) }
  mutating func set(_ key: String, _ value: Int?) { if let value { set(key, JSON(value)) } }
  mutating func set(_ key: String, _ value: Double?) { if let value { set(key, JSON(value)) } }

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
    case "bert" where type == "distilbert": try addDistilBert()
    case "bert": try addEncoder(type)
    case "modern-bert": try addModernBert()
    case "deepseek2": try addDeepseek(type)
    case "t5": try addT5()
    default: try addDecoder(type)
    }
    addUntranslated()
    return .object(members.sorted { ByteName($0.key) < ByteName($1.key) })
  }

  /// Keys of the architecture that are no part of what was made, and may be what makes this another model.
  private mutating func addUntranslated() {
    let harmless: [String: [GgufFile.Value]] = [
      "tensor_data_layout": [], "attention.causal": [.bool(true)], "attention.max_alibi_bias": [.single(0)],
      "attention.clamp_kqv": [.single(0)], "use_parallel_residual": [.bool(false)], "expert_shared_count": [.whole(0)],
      "expert_gating_func": [.whole(1)], "expert_weights_scale": [.single(0), .single(1)],
    ]
    // Files of other programs say of experts that there are none.
    let hasExperts = file.whole(architecture + ".expert_count") ?? 0 > 0
    let left = file.metadata.keys.filter { key in
      if contrary.contains(key) { return true }
      guard key.hasPrefix(architecture + "."), !used.contains(key), let value = file.metadata[key] else { return false }
      if !hasExperts, key.hasPrefix(architecture + ".expert_") { return false }
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
