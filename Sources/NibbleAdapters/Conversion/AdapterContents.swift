import NibbleCore
import NibbleFormats

/// What any program's adapter holds: factors, and a few words about them.
struct AdapterContents {
  var modules: [FactoredModule] = []
  /// CAUSAL_LM, SEQ_CLS and so on.
  var taskType: String?
  /// What the base is called.
  var baseName: String?
  var dropout = 0.0
  var binding: AdapterBinding?
  var warnings: [Warning] = []

  /// How modules are adapted.
  var method: any AdapterMethod.Type { modules.first?.method ?? LoRA.self }
  var largestRank: Int { modules.map(\.factors.rank).max() ?? 1 }
  /// A scale that most likely is everybody's.
  var commonScale: Double { modules.map(\.factors.scale).first { $0 != 0 } ?? 1 }

  /// - Parameter base: what tells weights that were trained whole from those PEFT writes beside an adapted embedding
  /// - Throws: `.usage` naming what nothing but PEFT's layout can say
  init(_ file: AdapterFile, base: Checkpoint?) throws {
    func fail(_ what: MessageText) -> NibbleError {
      NibbleError.usage("\(path: file.path) \(what), which only PEFT's layout can say; merge it instead")
    }
    try file.checkHasNoParameters("only PEFT's layout can say")
    if !file.config.layerReplication.isEmpty { throw fail("is for repeated layers (\(quoted("layer_replication")))") }
    // Of some modules nothing is left.
    let left = file.modules.filter { $0.tensors.contains { $0.count > 0 } }
    if let one = left.first(where: { $0.rank == 0 || $0.method.extras.contains { $0.isScaled } && !$0.extras.isEmpty }) {
      throw fail("uses \(one.beyondFactors) for \(subject: one.path)")
    }
    if let one = file.modules.first(where: \.isConvolution) { throw fail("adapts the convolution \(subject: one.path)") }
    if let rows = file.tokenRows.first { throw fail("replaces \(rows.tokens.count) rows of \(subject: rows.path)") }
    let adapted = Set(file.modules.map { $0.path + ".weight" })
    for (name, tensor) in file.replacements {
      // PEFT writes the weights of both embeddings beside an adapted one, though they were not trained.
      let isOwn =
        try base.map { try $0.holds(try file.mapped.floats(tensor), as: name) }
        ?? (tensor.name.text.hasSuffix(".base_layer.weight") && adapted.contains(name))
      guard isOwn else {
        throw fail("holds \(subject: name) trained whole" + (base == nil ? " (or as the base has it: \(.base) tells)" : ""))
      }
      warnings.append(
        .init(
          .unused,
          "\(path: file.path): \(subject: tensor.name.text) is left out: it is "
            + (base == nil ? "taken for the base's own weight, which \(.base) would check" : "the base's own weight")))
    }
    warnings += file.warnings
    let sized = try base.map { try file.sized(by: $0) } ?? file, paths = Set(left.map(\.path))
    modules = try sized.modules.filter { paths.contains($0.path) }.map { try FactoredModule($0, of: sized) }
    taskType = file.config.taskType
    baseName = file.config.baseName
    dropout = file.config.json["lora_dropout"]?.double ?? 0
    binding = file.binding
  }

  init() {}

  /// The same changes with one rank and one scale: ranks below the largest are filled up with zeros, scales go into the second factor.
  ///
  /// - Throws: `.usage` for modules that are more than two factors
  func uniform() throws -> AdapterContents {
    if let odd = modules.first(where: { !$0.isPlain }) {
      throw NibbleError.usage("\(subject: odd.path): \(odd.method.name) is more than two factors and a scale; merge the adapter instead")
    }
    var contents = self
    let (rank, scale) = (largestRank, commonScale)
    contents.modules = modules.map { $0.scaled(to: scale).padded(to: rank) }
    return contents
  }

  /// As PEFT has it.
  ///
  /// - Parameter base: what shows whether short names find the same modules as whole paths
  func folder(for base: Checkpoint?) -> AdapterFolder {
    let conv1D = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]
    let first: [(String, JSON)] = [
      ("peft_type", JSON(method.kind)), ("task_type", JSON(taskType)), ("base_model_name_or_path", JSON(baseName)), ("r", 1),
      ("lora_alpha", 1), ("lora_dropout", JSON(dropout)), ("use_rslora", .bool(false)),
    ]
    let last: [(String, JSON)] = [
      ("target_modules", JSON(ShortTargets.names(modules.map(\.path), of: base))), ("modules_to_save", .null), ("rank_pattern", .object([])),
      ("alpha_pattern", .object([])), ("bias", "none"),
      ("fan_in_fan_out", .bool(modules.contains { module in conv1D.contains { module.path.hasSuffix("." + $0) } })),
      ("init_lora_weights", .bool(true)), ("inference_mode", .bool(true)),
    ]
    let config = JSON.object(first + method.flagMembers + last)
    return AdapterFolder(modules, config: config, binding: binding)
  }

  /// How far the changes of two adapters are apart, relative to each: of the module where that is most.
  ///
  /// - Throws: `.failed` where they do not adapt the same modules
  func distance(to other: AdapterContents) throws -> (worst: Double, module: String) {
    let theirs = Dictionary(other.modules.map { (ByteName($0.path), $0) }) { first, _ in first }
    var found = (worst: 0.0, module: modules.first?.path ?? "")
    for module in modules {
      try Interrupt.check()
      guard let twin = theirs[ByteName(module.path)], twin.inputs == module.inputs, twin.outputs == module.outputs,
        twin.isEmbedding == module.isEmbedding, twin.extras == module.extras, other.modules.count == modules.count
      else { throw NibbleError(.failed, "\(module: module.path) does not come back from the file that was written") }
      let distance = module.factors.distance(to: twin.factors)
      if !(distance <= found.worst) { found = (distance, module.path) }
    }
    return found
  }
}

/// [rows, columns] turned round.
func transposed(_ values: [Float], rows: Int, columns: Int) -> [Float] {
  [Float](unsafeUninitializedCapacity: values.count) { buffer, count in
    for row in 0..<rows { for column in 0..<columns { buffer[column * rows + row] = values[row * columns + column] } }
    count = values.count
  }
}
