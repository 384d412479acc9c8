import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

extension Trained {
  /// An adapter's own numbers, to be trained on: the factors of its modules and what it trained whole.
  ///
  /// - Throws: `.adapterMismatch` for adapters that do not fit, `.usage` for parts that are not trained here
  package init(_ file: AdapterFile, on model: Model) throws {
    let (linears, tables) = (model.linears, model.embeddings)
    let modules = ModuleNames(linears.map(\.name) + tables.map(\.name), of: model.checkpoint)
    let parameters = ModuleNames(model.parameterNames, of: model.checkpoint)
    if let stacked = file.stackedModule {
      throw NibbleError.usage(
        "\(path: file.path): \(module: stacked): factors of stacked experts are attached and merged, and not trained further; a new adapter has "
          + "factors of each expert")
    }
    if let other = file.changesOfOtherParts(of: model.checkpoint).first {
      throw NibbleError.usage(
        "\(path: file.path): \(module: other) is of a part that takes pictures, which texts do not train; such an adapter is attached and merged")
    }
    try file.checkLayers(of: model.checkpoint)
    try file.checkEverythingMatches(modules, parameters, of: model.path)
    let held = Set(file.mapped.checkpoint.tensors.map(\.name))
    let file = try model.withShared(file, modules)
    var shared: [String: TrainedTensor] = [:]
    for fitted in try model.fitted(file, modules) {
      if let reason = fitted.module.method.untrained(fitted.module.shape.settings) {
        throw NibbleError.usage("\(path: file.path): \(module: fitted.module.path): \(reason)")
      }
      let own = try Self.module(fitted.module, file, &shared)
      switch fitted.place {
      case .layer(let index): self.modules[linears[index].id] = own
      case .table(let index):
        try checkTable(fitted.module, file, model)
        self.tables[tables[index].id] = own
      }
    }
    for one in shared.values { one.isStored = held.contains(ByteName(one.name)) }
    try addReplacements(file, parameters, model)
    try share(file, model)
    shareScorer(model)
    shareBias(model)
    let head = model.headTable
    let ownHead = file.tokenRows.contains { rows in modules.index(of: rows.path).map { $0 < linears.count && linears[$0].id == head?.id } ?? false }
    for rows in file.tokenRows {
      guard let index = modules.index(of: rows.path) else { continue }
      guard let table = index >= linears.count ? tables[index - linears.count] : head, index >= linears.count || linears[index].id == table.id
      else {
        throw NibbleError.usage(
          "\(path: file.path): rows of \(subject: rows.path), which is no embedding and no language head, are not trained")
      }
      try add(rows, of: table, sharing: !ownHead, file, model)
    }
    try checkSplitTable(of: model)
  }

  /// Throws where an adapter is to change the table that an encoder and a decoder look up.
  func checkSplitTable(of model: Model) throws {
    guard let table = model.splitTable, tables[table.id] != nil || rows[table.id] != nil || matrices[table.id] != nil else { return }
    throw NibbleError.usage("\(path: model.path): \(module: table.name) \(Model.splitReason)")
  }

  /// Modules that PEFT looks for where `ensure_weight_tying` is set; it ties nothing where it finds none of them.
  private static let namesPEFTTies = ["embed_tokens", "lm_head"]

  private static func tensor(_ stored: StoredTensor, _ file: AdapterFile) throws -> TrainedTensor {
    TrainedTensor(stored.name.text, stored.shape, FloatStore(try file.mapped.floats(stored)))
  }

  private static func module(
    _ module: AdapterFile.AdaptedModule, _ file: AdapterFile, _ shared: inout [String: TrainedTensor]
  ) throws -> TrainedModule {
    for part in module.method.parts where part.sharing != nil && shared[part.name] == nil {
      guard let stored = module.parts[part.name] else { continue }
      shared[part.name] = TrainedTensor(stored.name.text, stored.shape, FloatStore(try file.mapped.floats(stored)), isFrozen: true)
    }
    let own = module.method.parts.filter { $0.sharing == nil }.map(\.name)
    let values = try module.parts.filter { own.contains($0.key) }.mapValues { try file.mapped.floats($0) }
    return TrainedModule(module.method, module.shape, scale: module.scale, values, shared: shared) {
      module.parts[$0.name]?.name.text ?? $0.name
    }
  }

  private func checkTable(_ module: AdapterFile.AdaptedModule, _ file: AdapterFile, _ model: Model) throws {
    // PEFT turns the factors around, gives them to the head, and lets the optimizer take two steps on the numbers that both have.
    let isShared = file.config.ensuresWeightTying && Self.namesPEFTTies.contains { ModuleChoice.is(module.path, $0) }
    guard !isShared || model.tied == nil else {
      throw NibbleError.usage("\(path: file.path): ensure_weight_tying with factors of an embedding is not trained")
    }
  }

  // MARK: Trained whole

  private mutating func addReplacements(_ file: AdapterFile, _ parameters: ModuleNames, _ model: Model) throws {
    let given = file.replacements.compactMap { parameters.index(of: $0.name) }
    for (name, stored) in file.replacements {
      guard let id = parameters.index(of: name).map({ model.own($0, given: given) }) else { continue }
      let isWrapped = stored.name.text.contains(".base_layer.")
      let isAdapted = isWrapped && (modules[id] != nil || tables[id] != nil)
      // PEFT stores weights of embeddings and heads that were not trained: those under factors, and what no module trained whole is.
      if stored.shape.count == 2, isAdapted || !isSaved(name, id, file, model) {
        try checkIsBase(stored, id, file, model)
        continue
      }
      // With `bias="all"` PEFT writes some under several names, and reads them under this one.
      let end = name.lastIndex(of: ".") ?? name.startIndex
      let own = AdapterFile.prefix + (isWrapped ? name[..<end] + ".base_layer" + name[end...] : name[...])
      let tensor = TrainedTensor(own, stored.shape, FloatStore(try file.mapped.floats(stored)))
      if stored.shape.count == 1 { vectors[id] = tensor } else { matrices[id] = tensor }
    }
  }

  /// Makes one of a bias that is there under two names, with the same values.
  private mutating func shareBias(_ model: Model) {
    for (id, one) in vectors {
      guard let other = model.otherName(of: id), let twin = vectors[other], twin.values.values.elementsEqual(one.values.values) else { continue }
      one.otherNames.append(twin.name)
      vectors[other] = nil
    }
  }

  /// Whether a weight belongs to a module trained whole, or is kept tied to one.
  private func isSaved(_ name: String, _ id: ParameterID, _ file: AdapterFile, _ model: Model) -> Bool {
    if let tied = model.tied, file.config.tiesReplacedEmbedding, [tied.head.id, tied.tokens.id].contains(id) { return true }
    // PEFT finds them by the ends of paths, be it in the middle of a word: `classifier` is `pre_classifier` too.
    let parts = name.split(separator: ".")
    return file.config.modulesToSave.contains { saved in parts.indices.contains { parts[...$0].joined(separator: ".").hasSuffix(saved) } }
  }

  /// Throws `.usage` unless the weight that an adapter stores is the base's own.
  private func checkIsBase(_ stored: StoredTensor, _ id: ParameterID, _ file: AdapterFile, _ model: Model) throws {
    let own = model.linears.first { $0.id == id }?.matrix ?? model.embeddings.first { $0.id == id }?.matrix
    let other = try Matrix(stored, of: file.mapped, isTransposed: false)
    guard let own, own.native.rows == other.native.rows, own.native.columns == other.native.columns else {
      throw Self.otherBase(stored, file)
    }
    let (rows, columns) = (own.native.rows, own.native.columns)
    let (mine, theirs) = (FloatStore(count: columns), FloatStore(count: columns))
    for row in 0..<rows {
      own.rows(row..<row + 1, into: mine.start)
      other.rows(row..<row + 1, into: theirs.start)
      guard mine.values.elementsEqual(theirs.values) else { throw Self.otherBase(stored, file) }
    }
  }

  private static func otherBase(_ stored: StoredTensor, _ file: AdapterFile) -> NibbleError {
    .usage("\(path: file.path): \(subject: stored.name.text) is not the base's weight; an adapter is not trained on another one")
  }

  /// Where an adapter keeps embedding and head tied, what replaces both is one weight.
  ///
  /// - Throws: `.adapterMismatch` for two that differ
  private mutating func share(_ file: AdapterFile, _ model: Model) throws {
    guard file.config.tiesReplacedEmbedding, let (head, tokens) = model.tied,
      let one = matrices[tokens.id] ?? matrices[head.id]
    else { return }
    for id in [tokens.id, head.id] {
      guard let other = matrices[id] else {
        one.otherNames.append(AdapterFile.prefix + model.path(ofModule: id == head.id ? head.name : tokens.name) + ".weight")
        matrices[id] = one
        continue
      }
      guard other !== one else { continue }
      guard other.shape == one.shape, other.values.values.elementsEqual(one.values.values) else {
        throw NibbleError(
          .adapterMismatch,
          "\(path: file.path): ensure_weight_tying is set, but \(subject: one.name) and \(quoted(other.name)) differ")
      }
      one.otherNames.append(other.name)
      matrices[id] = one
    }
  }

  private mutating func add(
    _ rows: AdapterFile.TokenRows, of table: Embedding, sharing: Bool, _ file: AdapterFile, _ model: Model
  ) throws {
    guard !rows.tokens.isEmpty, rows.values.shape == [rows.tokens.count, table.width],
      rows.tokens.allSatisfy({ $0 < table.count })
    else {
      throw file.mismatch(rows.path, "has rows of shape \(rows.values.shape) for \(table.count) tokens of \(table.width)")
    }
    try add(TrainedRows(try Self.tensor(rows.values, file), tokens: rows.tokens), of: table, sharing: sharing, model)
  }
}
