import NibbleCore
import NibbleFormats

// A model in memory has one parameter under several names; an adapter may change what one of these names computes and not another.
// PEFT attached is the measure: factors and modules trained whole belong to the module they are on, rows of tokens and biases trained
// in place to all.

extension Checkpoint {
  /// This base with tied parameters as tensors of their own if an adapter treats them apart, and the adapters with what they say once
  /// for all of them said for each.
  ///
  /// - Throws: `.badInput` for models that cannot be untied
  func untied(_ tied: [TiedParameter], for given: [MergeOptions.Weighted]) throws -> (Checkpoint, [MergeOptions.Weighted]) {
    guard !tied.isEmpty else {
      try checkUnknownTies(given)
      return (self, given)
    }
    if !tiesInputEmbedding, let (adapter, path) = given.lazy.compactMap({ one in
      one.adapter.tokenRows(of: tied, self).map { (one.adapter.path, $0) }
    }).first {
      throw NibbleError.badInput(
        "\(path: adapter): rows of tokens of \(subject: path): which parameters of \(path: self.path) share them is not known; merge them in PEFT"
      )
    }
    let adapters = try given.map { one in
      try MergeOptions.Weighted(one.adapter.withoutTwins(of: tied, self), weight: one.weight)
    }
    for one in adapters {
      guard let name = one.adapter.treatsApart(tied, self) else { continue }
      guard canBeUntied else {
        let names = tied.map { quoted($0.name.text) }.joined(separator: ", ")
        throw NibbleError.badInput(
          "\(path: path): \(names) share the values of \(quoted(tied[0].source.name.text)), \(path: one.adapter.path) changes only \(subject: name), "
            + "and no configuration of this architecture takes them apart; such an adapter can only be attached")
      }
      return (untied(), adapters.map { .init($0.adapter.saidForEach(tied, self), weight: $0.weight) })
    }
    return (self, adapters)
  }

  /// An adapted embedding of a model that ties it to a head nobody knows would change the head too.
  private func checkUnknownTies(_ given: [MergeOptions.Weighted]) throws {
    guard let architecture = unknownTies else { return }
    for one in given {
      guard let name = one.adapter.vocabularyModule else { continue }
      throw NibbleError.badInput(
        "\(path: path): config.json ties the embedding of \(architecture) to an output head whose name nibble does not know, and "
          + "\(path: one.adapter.path) changes \(subject: name): merged, the change might reach both; save the base with a head of its own and "
          + "tie_word_embeddings false")
    }
  }

  /// Whether the tensor that `name` means has just these values.
  func holds(_ values: [Float], as name: String) throws -> Bool {
    let tied = tiedParameters
    let names = tensors.map(\.name.text) + tied.map(\.name.text)
    let found = ModuleNames(names, of: self).index(of: name).map { $0 < tensors.count ? tensors[$0] : tied[$0 - tensors.count].source }
    guard let found, found.count == values.count, found.dtype.isFloat, !found.isTransposed else { return false }
    var isSame = true
    try found.forEachValues { start, own, count, _ in
      for index in 0..<count where own[index] != values[start + index] { isSame = false }
    }
    return isSame
  }
}

extension AdapterFile {
  /// Without the weights PEFT writes beside adapted embeddings and heads though they are the base's own.
  package func withoutUnchanged(_ base: Checkpoint) throws -> AdapterFile {
    let vocabulary = ModuleNames((base.vocabularyTensors + base.tiedParameters.map(\.name)).map(\.text), of: base)
    var file = self
    file.replacements = try replacements.filter { name, tensor in
      guard tensor.name.text.hasSuffix(".base_layer.weight") || vocabulary.index(of: name) != nil else { return true }
      return try !base.holds(mapped.floats(tensor), as: name)
    }
    return file
  }

  /// Without parameters that are there twice with the same values, under the names of two that are tied.
  fileprivate func withoutTwins(of tied: [TiedParameter], _ base: Checkpoint) throws -> AdapterFile {
    var file = self
    for one in tied {
      let (own, source) = (ModuleNames([one.name.text], of: base), ModuleNames([one.source.name.text], of: base))
      guard let index = file.replacements.firstIndex(where: { own.index(of: $0.name) != nil }) else { continue }
      guard let twin = file.replacements.first(where: { source.index(of: $0.name) != nil }) else {
        // A bias trained in place is one parameter, whichever name it has.
        if !one.isWeight { file.replacements[index].name = one.source.name.text }
        continue
      }
      let copy = file.replacements[index].tensor
      // Of modules trained whole PEFT keeps two where they are not resized together, or tied by request.
      guard !one.isWeight || config.tiesReplacedEmbedding || copy.shape != one.source.logicalShape else { continue }
      if copy.shape == twin.tensor.shape, try mapped.floats(copy) == mapped.floats(twin.tensor) { file.replacements.remove(at: index) }
    }
    return file
  }

  /// The first of tied parameters that has rows of tokens.
  fileprivate func tokenRows(of tied: [TiedParameter], _ base: Checkpoint) -> String? {
    let names = ModuleNames(Array(Set(tied.flatMap { [$0.module, $0.sourceModule] })), of: base)
    return tokenRows.first { names.index(of: $0.path) != nil }?.path
  }

  /// What of it changes one of several tied parameters and leaves the others as they are.
  fileprivate func treatsApart(_ tied: [TiedParameter], _ base: Checkpoint) -> String? {
    let parameters = ModuleNames(tied.map(\.name.text), of: base)
    let own = ModuleNames(tied.map(\.module), of: base)
    let weights = tied.filter(\.isWeight)
    let sources = ModuleNames(Array(Set(weights.map(\.sourceModule))), of: base)
    if let one = modules.first(where: { own.index(of: $0.path) != nil || sources.index(of: $0.path) != nil }) { return one.path }
    if let one = tokenRows.first(where: { own.index(of: $0.path) != nil }) { return one.path }
    if let one = replacements.first(where: { parameters.index(of: $0.name) != nil }) { return one.name }
    guard !config.tiesReplacedEmbedding else { return nil }
    return replacements.first { name, tensor in
      weights.contains { ModuleNames([$0.source.name.text], of: base).index(of: name) != nil && tensor.shape == $0.source.logicalShape }
        && !tensor.name.text.hasSuffix(".base_layer.weight")
    }?.name
  }

  /// With all that holds for tied parameters together under the name of each.
  fileprivate func saidForEach(_ tied: [TiedParameter], _ base: Checkpoint) -> AdapterFile {
    var file = self
    for one in tied {
      let own = ModuleNames([one.name.text], of: base), source = ModuleNames([one.source.name.text], of: base)
      if !one.isWeight || config.tiesReplacedEmbedding, !replacements.contains(where: { own.index(of: $0.name) != nil }),
        let twin = replacements.first(where: { source.index(of: $0.name) != nil })
      {
        file.replacements.append((one.name.text, twin.tensor))
      }
      if one.isWeight { file.shareBase([(own, one.source.name.text), (source, one.name.text)]) }
      guard one.isWeight, !tokenRows.contains(where: { own.index(of: $0.path + ".weight") != nil }),
        let rows = tokenRows.first(where: { source.index(of: $0.path + ".weight") != nil })
      else { continue }
      file.tokenRows.append(TokenRows(path: one.module, tokens: rows.tokens, values: rows.values))
    }
    return file
  }

  /// Gives the weight under the factors of one of two tied modules to the other, unless that has one of its own: PEFT reads it into
  /// the parameter they share.
  private mutating func shareBase(_ pairs: [(from: ModuleNames, to: String)]) {
    for (from, to) in pairs {
      let base = replacements.first { from.index(of: $0.name) != nil && $0.tensor.name.text.hasSuffix(".base_layer.weight") }
      if let base, !replacements.contains(where: { $0.name == to }) { replacements.append((to, base.tensor)) }
    }
  }

  /// The first part of it that is an embedding's or a head's by its name.
  fileprivate var vocabularyModule: String? {
    modules.first { $0.isEmbedding || NameGuess.isEmbeddingOrHead($0.path + ".weight") }?.path ?? tokenRows.first?.path
      ?? replacements.first { NameGuess.isEmbeddingOrHead($0.name) && $0.tensor.shape.count == 2 }?.name
  }
}

extension TiedParameter {
  fileprivate var isWeight: Bool { name.text.hasSuffix(".weight") }
  fileprivate var module: String { Self.module(name.text) }
  fileprivate var sourceModule: String { Self.module(source.name.text) }

  private static func module(_ name: String) -> String { name.lastIndex(of: ".").map { String(name[..<$0]) } ?? name }
}
