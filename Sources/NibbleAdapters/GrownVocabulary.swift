import NibbleCore
import NibbleFormats

extension Checkpoint {
  /// Rows of the embedding of tokens; nil for a model without one.
  package var vocabularyRows: Int? { vocabularyTensors.lazy.compactMap { self.tensor($0)?.logicalShape.first }.first }

  /// This base with an embedding, and an output head if it has its own, of `count` rows: the first of its own, or all of them and new ones.
  /// A new row is the mean of all others: what transformers' `resize_token_embeddings` draws from a normal distribution around that mean
  /// with a billionth of the rows' variance.
  ///
  /// - Parameters:
  ///   - decodes: takes packed tables, as float32 in memory
  ///   - identity: what the base claims to be; nil for what it claims already
  /// - Throws: `.usage` for packed tables
  package func resizingVocabulary(to count: Int, decodes: Bool = false, identity: Digest128? = nil) throws -> Checkpoint {
    let mapped = try MappedCheckpoint(self)
    let resized = try vocabularyTensors.compactMap { tensor($0) }.map { stored in
      guard !stored.isPacked || decodes, stored.shape.count == 2, !stored.isTransposed, count > 0 else {
        throw NibbleError.usage("\(path: path): \(tensor: stored.name.text) is packed, so it gets no new rows; pack the model with \(.keep, stored.name.text)")
      }
      let (rows, width) = (stored.shape[0], stored.shape[1])
      if count <= rows, let first = stored.first(count) { return first }
      var values = stored.isPacked ? [Float](repeating: 0, count: rows * width) : try mapped.floats(stored)
      if stored.isPacked {
        try values.withUnsafeMutableBufferPointer { if let start = $0.baseAddress { try mapped.decode(stored, 0..<rows * width, into: start) } }
      }
      if count < rows { values.removeLast((rows - count) * width) }
      if count > rows {
        var mean = [Double](repeating: 0, count: width)
        for row in 0..<rows { for column in 0..<width { mean[column] += Double(values[row * width + column]) } }
        let new = mean.map { Float($0 / Double(max(rows, 1))) }
        for _ in rows..<count { values += new }
      }
      let bytes = values.withUnsafeBytes { [UInt8]($0) }
      return StoredTensor(stored.name, .f32, [count, width], sections: [StoredSection(.data, bytes: bytes)])
    }
    return replacing(resized, identity: identity).setting("vocab_size", to: JSON(count))
  }

  /// This base as it has to be to run `adapters`: with its layers as often as they want them, with the classification head that one brings,
  /// with the tokenizer of one that replaces the embedding, and with as many rows.
  ///
  /// - Parameter identity: of the base, where something of it is made anew
  package func grown(for adapters: [AdapterFile], identity: (() throws -> Digest128?)? = nil) throws -> Checkpoint {
    let identity = identity ?? { claimedIdentity }
    for adapter in adapters { try adapter.checkExperts(of: self) }
    var base = try replicatingLayers(for: adapters, identity: identity)
    for adapter in adapters {
      if adapter.binding?.head == nil, ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"].contains(adapter.config.taskType) { base = try base.withHeads(of: adapter) }
      base = try base.grown(for: adapter, identity: identity)
    }
    return base
  }

  private func grown(for adapter: AdapterFile, identity: () throws -> Digest128?) throws -> Checkpoint {
    let names = ModuleNames(vocabularyTensors.map(\.text), of: self)
    let replaced = adapter.replacements.filter { names.index(of: $0.name) != nil }
    if replaced.isEmpty, adapter.tokenRows.contains(where: { names.index(of: $0.path + ".weight") != nil }) {
      return try (rowsWithNewTokens(of: adapter).map { try resizingVocabulary(to: $0, decodes: true, identity: identity()) } ?? self)
        .withTokenizer(of: adapter)
    }
    let counts = Set(replaced.compactMap(\.tensor.shape.first))
    guard let count = counts.max(), let rows = vocabularyRows else { return self }
    // Rows that only one of embedding and head has were trained beside others that nobody saved.
    let isResized = counts.count == 1 && count != rows && replaced.count >= vocabularyTensors.count
    guard isResized || counts == [rows] else { return self }
    return try (isResized ? resizingVocabulary(to: count, decodes: true, identity: identity()) : self).withTokenizer(of: adapter)
  }

  /// How many rows the embedding has once it has one for each token the adapter has rows for; nil where none is missing.
  ///
  /// The new tokens must follow the others and one another, so a file cannot ask for more rows than it holds.
  private func rowsWithNewTokens(of adapter: AdapterFile) -> Int? {
    let names = ModuleNames(vocabularyTensors.map(\.text), of: self)
    guard let rows = vocabularyRows, let own = adapter.tokenRows.first(where: { names.index(of: $0.path + ".weight") != nil }) else { return nil }
    let new = own.tokens.filter { $0 >= rows }.sorted()
    return new.isEmpty || new != Array(rows..<rows + new.count) ? nil : rows + new.count
  }

  /// An adapter with whole embeddings, and a tied head if it is stored, in place of rows for tokens that this base lacks.
  func withWholeTables(_ adapter: AdapterFile) throws -> AdapterFile {
    let names = ModuleNames(vocabularyTensors.map(\.text), of: self)
    let isReplaced = adapter.replacements.contains { names.index(of: $0.name) != nil }
    guard !isReplaced, let count = rowsWithNewTokens(of: adapter) else { return adapter }
    let grown = try MappedCheckpoint(resizingVocabulary(to: count))
    var file = adapter
    file.tokenRows = []
    for rows in adapter.tokenRows {
      guard let index = names.index(of: rows.path + ".weight") else {
        file.tokenRows.append(rows)
        continue
      }
      let table = vocabularyTensors[index]
      let new = try adapter.mapped.floats(rows.values)
      for name in [table] + (headFollowing(table).map { [tensors[$0].name] } ?? []) {
        guard let stored = grown.checkpoint.tensor(name), stored.shape.count == 2, rows.values.shape.last == stored.shape[1] else { return adapter }
        let width = stored.shape[1]
        var values = try grown.floats(stored)
        for (row, token) in rows.tokens.enumerated() where token < count {
          values.replaceSubrange(token * width..<(token + 1) * width, with: new[row * width..<(row + 1) * width])
        }
        let bytes = values.withUnsafeBytes { [UInt8]($0) }
        try file.replace(
          name.text, by: StoredTensor(ByteName(AdapterFile.prefix + name.text), .f32, stored.shape, sections: [StoredSection(.data, bytes: bytes)]))
      }
    }
    return file
  }

  /// The same with the tokenizer that is saved with an adapter, if one is.
  func withTokenizer(of adapter: AdapterFile) throws -> Checkpoint {
    let files = try adapter.tokenizerFiles()
    return files.contains { $0.name == "tokenizer.json" } ? withFiles(files) : self
  }

  /// The same with other small files under these names.
  package func withFiles(_ files: [SmallFile]) -> Checkpoint {
    var other = self
    other.smallFiles = smallFiles.filter { old in !files.contains { $0.name == old.name } } + files
    other.smallFiles.sort { ByteName($0.name) < ByteName($1.name) }
    return other
  }
}

extension StoredTensor {
  /// The first rows of a plain matrix, where they lie in its file.
  fileprivate func first(_ rows: Int) -> StoredTensor? {
    guard !isPacked, shape.count == 2, rows <= shape[0], sections.count == 1, case .file(let file, let offset) = sections[0].source,
      sections[0].compression == .none, sections[0].order == nil
    else { return nil }
    let bytes = rows * shape[1] * dtype.bitWidth / 8
    return StoredTensor(name, dtype, [rows, shape[1]], sections: [StoredSection(sections[0].kind, in: file, at: offset, count: bytes)])
  }
}
