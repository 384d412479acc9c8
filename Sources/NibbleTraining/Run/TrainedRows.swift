import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

extension Trained {
  /// Rows of tables as the base has them, to be trained without the others.
  ///
  /// - Throws: `.usage` for modules without rows, rows there are none of, and tables that are trained otherwise too
  mutating func addTokenRows(_ asked: [AdapterOptions.TokenRows], _ model: Model) throws {
    // As in PEFT, the same rows of both of a tied pair are one.
    let common = asked.first { $0.module.map { name in model.tied.map { ModuleChoice.is($0.tokens.name, name) } ?? false } ?? true }?.tokens
    let asked = asked.filter { one in !(model.tied != nil && one.tokens == common && one.module.map { model.isHead($0) } ?? false) }
    for one in asked where !one.tokens.isEmpty {
      func fail(_ reason: MessageText) -> NibbleError { .usage("\(.trainableTokenIndices): \(reason)") }
      guard let table = model.table(one.module) else {
        throw fail("\(subject: one.module ?? "the model") is no embedding and no language head of \(path: model.path)")
      }
      guard let last = one.tokens.max(), last < table.count, one.tokens.allSatisfy({ $0 >= 0 }) else {
        throw fail("\(quoted(table.name)) has \(table.count) rows, there is none for \(one.tokens.max() ?? 0)")
      }
      guard Set(one.tokens).count == one.tokens.count else { throw fail("\(quoted(table.name)) has a row twice") }
      let values = FloatStore(count: one.tokens.count * table.width)
      for (index, token) in one.tokens.enumerated() { table.matrix.rows(token..<token + 1, into: values.start + index * table.width) }
      let name = AdapterFile.prefix + model.path(ofModule: table.name) + AdapterFile.tokenSuffix
      let rows = TrainedRows(TrainedTensor(name, [one.tokens.count, table.width], values), tokens: one.tokens)
      try add(rows, of: table, sharing: !asked.contains { $0.module.map { model.isHead($0) } ?? false }, model)
    }
  }

  /// Trains rows of a table, and with those of the embedding of tokens a head's that shares its weight.
  ///
  /// - Parameter sharing: false where the head has rows of its own
  /// - Throws: `.usage` for tables that are trained otherwise too
  mutating func add(_ own: TrainedRows, of table: Embedding, sharing: Bool, _ model: Model) throws {
    func fail(_ name: String) -> NibbleError {
      .usage("\(subject: own.values.name): \(quoted(name)) is adapted or trained whole; rows of it are not trained beside that")
    }
    guard !isTrained(table), modules[table.id] == nil else { throw fail(table.name) }
    rows[table.id] = own
    guard sharing, table.id == model.tokenEmbedding?.id, let head = model.sharedTokens?.head, matrices[head.id] == nil else { return }
    guard modules[head.id] == nil else { throw fail(head.name) }
    rows[head.id] = own
  }

  /// The rows that adapters name, by the path of their module: not a head's that are the embedding's.
  func namedRows(_ model: Model) -> [(path: String, tokens: [Int])] {
    let follower = model.sharedTokens.flatMap { rows[$0.head.id]?.values === rows[$0.tokens.id]?.values ? $0.head.id : nil }
    return rows.filter { $0.key != follower }.sorted { $0.key < $1.key }.map { id, own in
      (model.path(ofModule: String(model.parameterNames[id].dropLast(".weight".count))), own.tokens)
    }
  }
}

extension Model {
  /// An embedding, or a language head as the table of rows it is, by the last parts of its path; nil for the embedding of tokens.
  fileprivate func table(_ name: String?) -> Embedding? {
    guard let name else { return tokenEmbedding }
    return embeddings.first { ModuleChoice.is($0.name, name) } ?? headTable.flatMap { ModuleChoice.is($0.name, name) ? $0 : nil }
  }

  fileprivate func isHead(_ name: String) -> Bool { headTable.map { ModuleChoice.is($0.name, name) } ?? false }
}
