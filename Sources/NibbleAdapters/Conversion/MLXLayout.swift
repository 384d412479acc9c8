import NibbleCore
import NibbleFormats

/// mlx-lm's adapters: a folder with `adapters.safetensors` (`M.lora_a` [inputs, rank], `M.lora_b` [rank, outputs], DoRA's `M.m`) and an
/// `adapter_config.json` with one rank and one scale for all. The change is scale · (lora_a · lora_b)ᵀ: there is no alpha.
enum MLXLayout {
  static let weightsName = "adapters.safetensors"

  static func isOne(_ path: String) -> Bool { PathKind(path + "/" + weightsName) == .file }

  /// mlx-lm calls the inner model `model` in every family.
  private static let prefixes = [
    ("transformer.h.", "model.h."), ("transformer.wte", "model.wte"), ("transformer.wpe", "model.wpe"),
  ]

  private static func name(_ path: String) -> String {
    if let (theirs, own) = prefixes.first(where: { path.hasPrefix($0.0) }) { return own + path.dropFirst(theirs.count) }
    return ["layers.", "h.", "wte", "embed_tokens"].contains { path.hasPrefix($0) } ? "model." + path : path
  }

  /// With the paths that modules have in a language model. An adapter of the model without its head lacks the first part of them.
  ///
  /// - Throws: `.usage` where two modules become one
  static func ofLanguageModel(_ contents: AdapterContents) throws -> AdapterContents {
    var contents = contents
    var seen: Set<ByteName> = []
    for index in contents.modules.indices {
      let own = contents.modules[index].path
      contents.modules[index].path = path(name(own))
      guard seen.insert(ByteName(contents.modules[index].path)).inserted else {
        throw NibbleError.usage("\(subject: own): mlx-lm has one module for it and another of the adapter's")
      }
    }
    return contents
  }

  private static func path(_ name: String) -> String {
    guard let (theirs, own) = prefixes.first(where: { name.hasPrefix($0.1) }) else { return name }
    return theirs + name.dropFirst(own.count)
  }

  private static func isEmbedding(_ path: String) -> Bool {
    ["embed_tokens", "wte", "wpe"].contains { path == $0 || path.hasSuffix("." + $0) }
  }

  /// Methods that mlx-lm has: what it calls them and their parts beside factors.
  private static let methods: [(name: String, method: any AdapterMethod.Type, parts: [(theirs: String, own: String)])] = [
    ("lora", LoRA.self, []), ("dora", DoRA.self, [("m", DoRA.magnitude)]),
  ]

  /// What messages call the method of an adapter with this `adapter_config.json`.
  static func methodName(_ config: JSON) -> String? {
    methods.first { $0.name == config["fine_tune_type"]?.string }?.method.name
  }

  // MARK: - Writing

  /// Ranks below the largest are filled up with zeros, scales that differ go into the second factor.
  ///
  /// - Throws: `.usage` for what the layout cannot say
  static func folder(_ contents: AdapterContents) throws -> AdapterFolder {
    guard let known = methods.first(where: { $0.method == contents.method }) else {
      throw NibbleError.usage("mlx-lm has no \(contents.method.name); merge the adapter instead")
    }
    if let odd = contents.modules.first(where: { $0.isEmbedding && !$0.isPlain }) {
      throw NibbleError.usage(
        "\(subject: odd.path): \(known.method.name) on an embedding scales other numbers in mlx-lm than in PEFT; it is not converted"
      )
    }
    if contents.taskType.map({ $0 != "CAUSAL_LM" }) ?? false {
      throw NibbleError.usage("mlx-lm runs language models; this adapter's task_type is \(contents.taskType ?? "")")
    }
    let (rank, scale) = (contents.largestRank, contents.commonScale)
    var tensors: [AdapterFolder.Tensor] = []
    for module in contents.modules {
      let own = module.scaled(to: scale).padded(to: rank)
      let name = name(module.path)
      if isEmbedding(module.path) != module.isEmbedding {
        throw NibbleError.usage(
          "\(subject: module.path): mlx-lm would take it for \(module.isEmbedding ? "a linear layer" : "an embedding")")
      }
      tensors.append(
        .init(name + ".lora_a", [own.inputs, rank], transposed(own.factors.a, rows: rank, columns: own.inputs)))
      tensors.append(
        .init(name + ".lora_b", [rank, own.outputs], transposed(own.factors.b, rows: own.outputs, columns: rank)))
      for part in known.parts {
        if let values = module.extras[part.own] { tensors.append(.init(name + "." + part.theirs, [values.count], values)) }
      }
    }
    // Full names find just these modules, whichever layers they are in.
    let keys = contents.modules.map { name($0.path) }
    let layers = Set(keys.compactMap { $0.split(separator: ".").first { Int($0) != nil } })
    let config: JSON = [
      "fine_tune_type": JSON(known.name), "model": JSON(contents.baseName),
      "num_layers": JSON(layers.count),
      "lora_parameters": [
        "rank": JSON(rank), "scale": JSON(scale), "dropout": JSON(contents.dropout), "keys": JSON(keys.sorted()),
      ],
    ]
    var folder = AdapterFolder(config: config, tensors: tensors, binding: contents.binding)
    (folder.weightsName, folder.format) = (weightsName, "mlx")
    return folder
  }

  // MARK: - Reading

  /// - Throws: `.badInput` for what is missing, malformed or unknown, naming it
  static func contents(_ path: String) throws -> AdapterContents {
    let place = path + "/adapter_config.json"
    func fail(_ reason: MessageText, at place: String = place) -> NibbleError { .badInput("\(path: place): \(reason)") }
    let config = try readJSONFile(place)
    let kind = config["fine_tune_type"]?.string ?? "lora"
    guard let known = methods.first(where: { $0.name == kind }) else {
      throw fail("\(key: "fine_tune_type") = \(quoted(kind)) is no adapter of factors")
    }
    guard let settings = config["lora_parameters"], let rank = settings["rank"]?.int, (1...1 << 20).contains(rank),
      let scale = settings["scale"]?.double, scale.isFinite
    else { throw fail("lora_parameters needs a rank and a scale") }
    if let alpha = settings["alpha"], alpha != .null {
      throw fail(
        "\(key: "lora_parameters") has alpha beside scale: the mlx-lm that wrote it multiplied with both, later ones do not; take one out"
      )
    }
    let weights = path + "/" + weightsName
    let mapped = try MappedCheckpoint(try Checkpoint.open(weights))
    var contents = AdapterContents()
    var parts: [ByteName: [String: StoredTensor]] = [:]
    for tensor in mapped.checkpoint.tensors {
      let name = tensor.name.text
      guard let dot = name.lastIndex(of: "."), ["lora_a", "lora_b", "m"].contains(name[name.index(after: dot)...])
      else {
        throw fail("\(tensor: name) is no part of mlx-lm's adapters", at: weights)
      }
      parts[ByteName(String(name[..<dot])), default: [:]][String(name[name.index(after: dot)...])] = tensor
    }
    for (name, found) in parts.sorted(by: { $0.key < $1.key }) {
      func broken(_ reason: MessageText) -> NibbleError { fail("\(module: name.text) \(reason)", at: weights) }
      guard let a = found["lora_a"], let b = found["lora_b"] else { throw broken("has one factor only") }
      guard a.shape.count == 2, b.shape.count == 2, a.shape[1] == rank, b.shape[0] == rank else {
        throw broken("has factors of shapes \(a.shape) and \(b.shape), where the rank is \(rank)")
      }
      guard Set(known.parts.map(\.theirs)) == Set(found.keys).subtracting(["lora_a", "lora_b"]),
        known.parts.allSatisfy({ found[$0.theirs]?.shape == [b.shape[1]] })
      else { throw broken("has m of shape \(found["m"]?.shape ?? []), fine_tune_type is \(kind)") }
      let path = Self.path(name.text)
      if isEmbedding(path), !known.parts.isEmpty {
        throw broken("is an embedding with \(known.method.name), which PEFT computes otherwise")
      }
      func values(_ tensor: StoredTensor) throws -> [Float] {
        let values = try mapped.floats(tensor)
        guard values.allSatisfy(\.isFinite) else {
          throw NibbleError.quality("\(path: weights): \(tensor: tensor.name.text) holds NaN or infinite values")
        }
        return values
      }
      contents.modules.append(
        FactoredModule(
          path: path, method: known.method,
          ModuleShape(isEmbedding(path) ? .embedding : .linear, input: [a.shape[0]], outputs: b.shape[1]),
          factors: LowRankFactors(
            a: transposed(try values(a), rows: a.shape[0], columns: rank),
            b: transposed(try values(b), rows: rank, columns: b.shape[1]), rank: rank, scale: scale),
          extras: try known.parts.reduce(into: [:]) { $0[$1.own] = try found[$1.theirs].map(values) }))
    }
    guard !contents.modules.isEmpty else { throw fail("it holds no tensors", at: weights) }
    contents.taskType = "CAUSAL_LM"
    contents.baseName = config["model"]?.string
    contents.dropout = settings["dropout"]?.double ?? 0
    contents.binding = try mapped.checkpoint.metadata.first { $0.key == AdapterBinding.key }.map {
      try AdapterBinding(text: $0.value, place: weights)
    }
    return contents
  }
}
