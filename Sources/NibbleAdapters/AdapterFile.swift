import NibbleCore
import NibbleFormats

/// An adapter as PEFT stores it: a folder with `adapter_config.json` and `adapter_model.safetensors`.
///
/// Every tensor is found to be part of an adapted module or the replacement of a parameter; nothing is left over.
public struct AdapterFile: Sendable {
  /// As it was given.
  public let path: String
  public private(set) var config: AdapterConfig
  /// What it was trained on, where it says so.
  public let binding: AdapterBinding?
  /// In the order of their paths.
  public internal(set) var modules: [AdaptedModule] = []
  /// Parameters of the base that were trained themselves, under their full names.
  public internal(set) var replacements: [(name: String, tensor: StoredTensor)] = []
  /// Rows of embeddings that were trained without the others.
  public internal(set) var tokenRows: [TokenRows] = []
  package private(set) var mapped: MappedCheckpoint

  /// Rows that take the place of an embedding's own.
  public struct TokenRows: Sendable {
    /// The embedding's path in the base.
    public let path: String
    /// The tokens they are for.
    public let tokens: [Int]
    /// [tokens, width]
    public let values: StoredTensor
  }

  /// Whether `path` names an adapter and no model; a folder may hold both.
  public static func isAdapter(_ path: String) -> Bool {
    let folder = PathKind(path) == .nothing ? (try? HubCache.snapshot(path)) ?? path : path
    return PathKind(folder + "/adapter_config.json") == .file && PathKind(folder + "/config.json") == .nothing
  }

  /// Opens the adapter in folder `path`, or in the local Hugging Face cache under that name.
  ///
  /// - Parameter members: what its configuration does not say
  /// - Throws: `.badInput` for missing or malformed files, `.adapterMismatch` for tensors that belong to nothing
  public static func open(_ path: String, saying members: [(String, JSON)] = []) throws -> AdapterFile {
    guard PathKind(path) == .folder else {
      if PathKind(path) == .nothing, let snapshot = try HubCache.snapshot(path) { return try open(snapshot, saying: members) }
      let reason = PathKind(path) == .nothing ? "no such folder" : "not a folder; an adapter is a folder with adapter_config.json"
      throw NibbleError.badInput("\(path: path): \(reason)")
    }
    let configPath = path + "/adapter_config.json"
    let weights = path + "/adapter_model.safetensors"
    if PathKind(weights) == .nothing, PathKind(path + "/adapter_model.bin") == .file {
      throw NibbleError.badInput(
        "\(path: path + "/adapter_model.bin"): pickles, which can run code when loaded, are not read; save the adapter as safetensors"
      )
    }
    if PathKind(configPath) == .nothing, PathKind(path + "/config.json") == .file {
      throw NibbleError.badInput("\(path: path): a model folder, where an adapter folder with adapter_config.json was expected")
    }
    let json = try members.reduce(readJSONFile(configPath)) { $0.setting($1.0, to: $1.1) }
    let config = try AdapterConfig(json, place: configPath)
    let checkpoint = try Checkpoint.open(weights)
    let binding = try checkpoint.metadata.first { $0.key == AdapterBinding.key }.map {
      try AdapterBinding(text: $0.value, place: weights)
    }
    var file = AdapterFile(path: path, config: config, binding: binding, mapped: try MappedCheckpoint(checkpoint))
    try file.sort(checkpoint.tensors)
    return file
  }

  private init(path: String, config: AdapterConfig, binding: AdapterBinding?, mapped: MappedCheckpoint) {
    self.path = path
    self.config = config
    self.binding = binding
    self.mapped = mapped
  }

  private func mismatch(_ reason: MessageText) -> NibbleError { NibbleError(.adapterMismatch, "\(path: path): \(reason)") }

  /// Finds out what each tensor is.
  private mutating func sort(_ tensors: [StoredTensor]) throws {
    var parts: [ByteName: [String: StoredTensor]] = [:]
    var embeddings: Set<ByteName> = []
    var seen: [ByteName: StoredTensor] = [:]
    let all = Set(tensors.map(\.name))
    var shared: [String: StoredTensor] = [:]
    for tensor in tensors {
      let name = tensor.name.text
      if let part = config.method.parts.first(where: { $0.sharing != nil && $0.suffixes.contains(name) }) {
        shared[part.name] = tensor
        continue
      }
      guard name.hasPrefix(Self.prefix) else { throw mismatch("\(tensor: name) does not begin with \(Self.prefix)") }
      guard !tensor.isPacked else { throw mismatch("\(tensor: name) is packed") }
      let own = String(name.dropFirst(Self.prefix.count))
      if own.hasSuffix(Self.tokenSuffix) {
        tokenRows.append(try rows(String(own.dropLast(Self.tokenSuffix.count)), tensor))
        continue
      }
      guard let (path, suffix, part) = AdapterMethods.part(own) else {
        guard !Self.foreign.contains(where: own.contains) else {
          throw mismatch("\(tensor: name): no part of an adapter nibble knows")
        }
        try replace(own, by: tensor, all, &seen)
        continue
      }
      if suffix.contains(MethodPart.embedding) { embeddings.insert(ByteName(path)) }
      guard parts[ByteName(path), default: [:]].updateValue(tensor, forKey: part) == nil else {
        throw mismatch("\(module: path) has a part twice: \(quoted(name)) is another spelling of it")
      }
    }
    try unstack(&parts)
    let found = parts.values.reduce(into: Set<String>()) { $0.formUnion($1.keys) }
    if let shown = AdapterMethods.shown(by: found, insteadOf: config.method) { config = config.adopting(shown) }
    modules = try parts.keys.sorted().map { path in
      try module(path.text, (parts[path] ?? [:]).merging(shared) { own, _ in own }, isEmbedding: embeddings.contains(path))
    }
    guard !modules.isEmpty || !replacements.isEmpty || !tokenRows.isEmpty else { throw mismatch("it holds no tensors") }
    if let module = modules.first(where: { !$0.isParameter }), config.json["target_modules"] == .array([]) {
      throw NibbleError.badInput(
        "\(path: path + "/adapter_config.json"): target_modules is empty, the file has tensors for \(quoted(module.path))")
    }
    guard tokenRows.count == config.tokenRows.count else {
      throw mismatch(
        "\(key: "trainable_token_indices") names \(config.tokenRows.count) embeddings, the file has rows for \(tokenRows.count)")
    }
  }

  /// What follows an embedding's path in the name of such rows.
  package static let tokenSuffix = ".token_adapter.trainable_tokens_delta"

  /// The same with a parameter of the base that its file does not hold.
  mutating func replace(_ name: String, by tensor: StoredTensor) throws {
    mapped = try MappedCheckpoint(mapped.checkpoint.adding([tensor]))
    replacements.append((name, tensor))
  }

  /// Takes in tensors that its file does not hold.
  mutating func hold(_ tensors: [StoredTensor]) throws { mapped = try MappedCheckpoint(mapped.checkpoint.adding(tensors)) }

  /// The same with numbers that its modules share and its file does not hold.
  ///
  /// - Parameters:
  ///   - sizes: of the layers, or nothing where a module has none
  func withShared(_ sizes: (AdaptedModule) -> (inputs: Int, outputs: Int)?) throws -> AdapterFile {
    let missing = config.method.parts.filter { part in part.sharing != nil && modules.contains { $0.parts[part.name] == nil } }
    guard !missing.isEmpty, let first = modules.first else { return self }
    let known = modules.compactMap(sizes)
    let inputs = known.map(\.inputs).max() ?? 0, outputs = known.map(\.outputs).max() ?? 0
    let numbers = first.method.shared(rank: first.rank, inputs: inputs, outputs: outputs, settings: first.shape.settings)
    let shape = ModuleShape(input: [inputs], outputs: outputs, rank: first.rank, settings: first.shape.settings)
    let tensors = missing.compactMap { part in
      numbers[part.name].map { own in
        (part.name, StoredTensor(
          ByteName(part.suffixes[0]), .f32, part.shape(shape), sections: [StoredSection(.data, bytes: own.withUnsafeBytes { [UInt8]($0) })]))
      }
    }
    var file = self
    file.mapped = try MappedCheckpoint(mapped.checkpoint.adding(tensors.map(\.1)))
    file.modules = modules.map { $0.sharing(Dictionary(uniqueKeysWithValues: tensors)) }
    return file
  }

  /// The same, with sizes of layers by their place in `names`.
  package func withShared(_ names: ModuleNames, _ size: (Int) -> (inputs: Int, outputs: Int)?) throws -> AdapterFile {
    try withShared { names.index(of: $0.path).flatMap(size) }
  }

  /// Finds the tokens that rows of an embedding are for.
  private func rows(_ path: String, _ tensor: StoredTensor) throws -> TokenRows {
    let named = config.tokenRows.first { row in row.module.map { path == $0 || path.hasSuffix("." + $0) } ?? true }
    guard let named, tensor.shape.count == 2, tensor.shape[0] == named.tokens.count else {
      throw mismatch(
        "\(tensor: tensor.name.text) has shape \(tensor.shape), trainable_token_indices names \(named?.tokens.count ?? 0) tokens there"
      )
    }
    return TokenRows(path: path, tokens: named.tokens, values: tensor)
  }

  /// Takes note of a parameter trained whole.
  ///
  /// With `bias="all"` PEFT writes the biases of modules trained whole three times: under their own names, under
  /// `modules_to_save`, and as they were before (`original_module`), which counts for nothing.
  private mutating func replace(
    _ own: String, by tensor: StoredTensor, _ all: Set<ByteName>, _ seen: inout [ByteName: StoredTensor]
  ) throws {
    if own.contains(".original_module.") { return }
    let name = Self.withoutWrapper(own.replacing(".base_layer", with: ""), all)
    guard let other = seen.updateValue(tensor, forKey: ByteName(name)) else {
      replacements.append((name, tensor))
      return
    }
    guard tensor.shape == other.shape, try mapped.floats(tensor) == mapped.floats(other) else {
      throw mismatch("\(subject: name) is in it twice, with different values")
    }
  }

  /// `M.modules_to_save.ADAPTER.REST` is `M.REST`. Whether there is an adapter's name in it, the same parameter under its own name shows.
  private static func withoutWrapper(_ own: String, _ all: Set<ByteName>) -> String {
    let wrapper = ".modules_to_save."
    guard let found = own.firstRange(of: wrapper) else { return own }
    let (module, rest) = (own[..<found.lowerBound] + ".", own[found.upperBound...])
    let plain = String(module + rest)
    guard let dot = rest.firstIndex(of: ".") else { return plain }
    let unnamed = String(module + rest[rest.index(after: dot)...])
    return !all.contains(ByteName(prefix + plain)) && (all.contains(ByteName(prefix + unnamed)) || rest[..<dot] == "default")
      ? unnamed : plain
  }

  /// What PEFT puts before the names of a base's tensors.
  package static let prefix = "base_model.model."
  /// In the names of tensors that belong to some method's module, or to rows of tokens, and to no parameter of a base.
  private static let foreign = [
    ".lora_", ".trainable_tokens", ".hada_", ".lokr_", ".vera_", ".ia3_", ".oft_", ".boft_", ".hra_", ".miss_",
  ]
}

/// A JSON file, read whole.
func readJSONFile(_ path: String) throws -> JSON {
  let file = try InputFile(path)
  guard file.size <= 64 << 20 else {
    throw NibbleError.badInput("\(path: path): \(file.size) bytes are too many for a configuration")
  }
  do { return try JSON.parse(try file.bytes(at: 0, count: file.size)) } catch let error as JSONError {
    throw NibbleError.badInput("\(path: path): \(error.reason) at byte \(error.offset)")
  }
}
