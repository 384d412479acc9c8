import NibbleCore
import NibbleFormats

extension Checkpoint {
  /// This base as adapters need it: with its layers as often as they want them, with a head of its own where they treat it apart from the embedding, with the heads they bring,
  /// with the vocabulary they were resized to; its configuration says so.
  ///
  /// - Returns: the base, and the adapters without what they say twice
  /// - Throws: `.adapterMismatch` where a vocabulary is resized in one place only
  func fitted(to given: [MergeOptions.Weighted]) throws -> (base: Checkpoint, adapters: [MergeOptions.Weighted]) {
    let given = try given.map { MergeOptions.Weighted(try $0.adapter.fittingExperts(of: self), weight: $0.weight) }
    let base = try replicatingLayers(for: given.map(\.adapter)) { nil }
    return try base.fittedAsItIs(to: given)
  }

  private func fittedAsItIs(to given: [MergeOptions.Weighted]) throws -> (base: Checkpoint, adapters: [MergeOptions.Weighted]) {
    let tied = tiedParameters
    for one in given { try one.adapter.checkSavedModules((tensors.map(\.name) + tied.map(\.name)).map(\.text), of: path) }
    let changed = try given.map {
      MergeOptions.Weighted(try withWholeTables($0.adapter.withShared(of: self).withoutUnchanged(self)), weight: $0.weight)
    }
    var (base, adapters) = try untied(tied, for: changed)
    for one in adapters { base = try base.withHeads(of: one.adapter) }
    for one in adapters { base = try base.withVocabulary(of: one.adapter) }
    return (base, adapters)
  }

  /// Throws for adapters that a running model does not take: they can only be merged.
  func checkAttachable(_ adapter: AdapterFile) throws {
    func fail(_ what: MessageText) -> NibbleError {
      NibbleError.usage(
        "\(.whenLost, "keep"): \(path: adapter.path) \(what): such adapters can be merged, and not attached to a running model")
    }
    for module in adapter.modules {
      if module.isConvolution { throw fail("adapts convolutions") }
      if module.isEmbedding, !module.method.looksUp { throw fail("adapts \(subject: module.path) by \(module.method.name)") }
    }
  }

  /// Heads that were trained with the adapter and that the base does not have.
  func withHeads(of adapter: AdapterFile) throws -> Checkpoint {
    let parameters = ModuleNames(tensors.map(\.name.text), of: self)
    let saved = Set(adapter.config.modulesToSave + ["classifier", "score", "qa_outputs"])
    let record = adapter.binding?.head
    let new = adapter.replacements.filter { name, tensor in
      parameters.index(of: name) == nil
        && (isHead(name) && (record != nil || name.split(separator: ".").contains { saved.contains(String($0)) })
          || record != nil && name.contains("pooler."))
    }
    guard !new.isEmpty || record != nil else { return self }
    let added = new.map { name, tensor in
      var tensor = tensor
      tensor.name = ByteName(nameHere(name))
      return tensor
    }
    var base = adding(added)
    if !added.isEmpty {
      base.warnings.append(
        .init(
          .identity,
          "\(path: adapter.path) brings a head the base does not have: \(added.map { quoted($0.name.text) }.joined(separator: ", "))"))
    }
    let outputs = new.filter { $0.tensor.shape.count == 2 }.map(\.tensor.shape[0]).min()
    guard let config = base.config else { return base }
    guard let record else {
      return config.forTask(adapter.config.taskType, labels: outputs).map { base.with(config: $0) } ?? base
    }
    if record["pooling"] == "span" { return config.forTask("QUESTION_ANS", labels: nil).map { base.with(config: $0) } ?? base }
    let isOfTokens = record["pooling"] == "each"
    if isOfTokens || record["pooling"] == "model" {
      guard let labels = record["labels"]?.int, (1...1 << 20).contains(labels) else {
        throw NibbleError.badInput("\(path: adapter.path): its record of a head is not what nibble writes there")
      }
      let names = record["names"]?.array?.compactMap(\.string) ?? []
      let problem = record["many_labels"]?.bool == true ? "multi_label" : "single_label"
      let written = config.forTask(
        isOfTokens ? "TOKEN_CLS" : "SEQ_CLS", labels: labels, names: names,
        problem: isOfTokens ? nil : labels == 1 && problem == "single_label" ? "regression" : problem + "_classification")
      return written.map { base.with(config: $0) } ?? base
    }
    base.warnings.append(
      .init(
        .compatibility,
        "\(path: adapter.path): its head looks at what no class of transformers does: nibble runs the merged model, transformers leaves the head out"))
    return base.with(config: config.setting("nibble_head", to: record))
  }

  /// A head's parameter as this base would call it: without the model's own prefix where the base's names have none.
  private func nameHere(_ name: String) -> String {
    guard let prefix = family?.prefix(modelType ?? ""), name.hasPrefix(prefix), !tensors.contains(where: { $0.name.text.hasPrefix(prefix) })
    else { return name }
    return String(name.dropFirst(prefix.count))
  }

  /// Of a classifier, at the root of the model.
  func isHead(_ name: String) -> Bool {
    ["classifier", "pre_classifier", "cls_classifier", "distillation_classifier", "head", "score", "qa_outputs"].contains { name.hasPrefix($0 + ".") }
  }

  /// The number of tokens that an adapter's own embedding has.
  private func withVocabulary(of adapter: AdapterFile) throws -> Checkpoint {
    let own = vocabularyTensors
    let names = ModuleNames(own.map(\.text), of: self)
    let replaced = adapter.replacements.filter { names.index(of: $0.name) != nil }
    let counts = Set(replaced.compactMap(\.tensor.shape.first))
    let before = own.compactMap { tensor($0)?.logicalShape.first }.first ?? 0
    // Of as many rows, some may have become new tokens' rows.
    guard let count = counts.first, counts != [before] else {
      let hasRows = adapter.tokenRows.contains { names.index(of: $0.path + ".weight") != nil }
      return counts.isEmpty && !hasRows ? self : try withTokenizer(of: adapter)
    }
    guard counts.count == 1, replaced.count == own.count else {
      throw NibbleError(
        .adapterMismatch,
        "\(path: adapter.path): its vocabulary has \(count) tokens, the base's \(before), and it does not hold all of "
          + "\(own.map { quoted($0.text) }.joined(separator: ", "))")
    }
    var base = self
    let files = try adapter.tokenizerFiles()
    base.smallFiles = base.smallFiles.filter { old in !files.contains { $0.name == old.name } } + files
    base.smallFiles.sort { ByteName($0.name) < ByteName($1.name) }
    base.warnings.append(
      .init(
        .identity,
        "\(path: adapter.path) has \(count) tokens, the base \(before): the output has \(count); its tokenizer is "
          + (files.isEmpty ? "still the base's, for the adapter brings none" : "the adapter's")))
    return networkConfig?["vocab_size"] == nil ? base : base.setting("vocab_size", to: JSON(count))
  }

  /// Weights with a row for each token: the embedding of tokens, and the output head.
  var vocabularyTensors: [ByteName] {
    let family = family, heads = ["lm_head.weight"] + (family?.part == nil ? [] : family?.tiedHeads ?? []).map { $0 + ".weight" }
    return tensors.map(\.name).filter { name in
      let text = name.text
      return ["embed_tokens.weight", "wte.weight", "word_embeddings.weight"].contains { text == $0 || text.hasSuffix("." + $0) }
        || heads.contains(family?.inModules(text) ?? text)
    }
  }
}

extension AdapterFile {
  /// The tokenizer saved with the adapter.
  func tokenizerFiles() throws -> [Checkpoint.SmallFile] {
    try [
      "added_tokens.json", "chat_template.jinja", "merges.txt", "special_tokens_map.json", "tokenizer.json", "tokenizer.model",
      "tokenizer_config.json", "vocab.json", "vocab.txt",
    ].filter { PathKind(path + "/" + $0) == .file }.map { name in
      let file = try InputFile(path + "/" + name)
      return Checkpoint.SmallFile(name: name, section: StoredSection(.file, in: file, at: 0, count: file.size))
    }
  }
}

extension JSON {
  /// A configuration for a model with a head for another task.
  ///
  /// - Parameters:
  ///   - task: `SEQ_CLS`, `TOKEN_CLS` or `QUESTION_ANS`
  ///   - labels: how many classes there are, where that is known
  ///   - classes: what they are called; empty for numbers
  ///   - problem: `problem_type`
  package func forTask(_ task: String?, labels: Int?, names classes: [String] = [], problem: String? = nil) -> JSON? {
    let takesImages = self["model_type"]?.string.flatMap(ModelFamily.named)?.takesImages == true
    let ending = [
      "SEQ_CLS": takesImages ? "ForImageClassification" : "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification", "QUESTION_ANS": "ForQuestionAnswering",
    ]
    var written = self
    if let task, let ending = ending[task], let name = self["architectures"]?.array?.first?.string {
      let stem = ["For", "LMHeadModel", "Model"].lazy.compactMap { name.split(separator: $0, maxSplits: 1).first }
        .min { $0.count < $1.count }
      written = written.setting("architectures", to: JSON([String(stem ?? name[...]) + ending]))
    }
    guard let labels, task != "QUESTION_ANS" else { return written }
    if let problem { written = written.setting("problem_type", to: JSON(problem)) }
    let names = (0..<labels).map { ("\($0)", classes.count == labels ? classes[$0] : "LABEL_\($0)") }
    return written.setting("id2label", to: .object(names.map { ($0.0, JSON($0.1)) }))
      .setting("label2id", to: .object(names.enumerated().map { ($1.1, JSON($0)) }))
  }
}

extension AdapterFile {
  /// Sizes of the layers of `base` that modules are for, as far as the outputs are known.
  private func sizes(in base: Checkpoint) -> (AdaptedModule) -> (inputs: Int, outputs: Int)? {
    let paths = base.modulePaths, names = ModuleNames(paths, of: base)
    return { module in
      guard let count = names.index(of: module.path).flatMap({ base.tensor(ByteName(paths[$0] + ".weight"))?.count }),
        let outputs = module.shape.outputs, outputs > 0
      else { return nil }
      return (count / outputs, outputs)
    }
  }

  /// The same with the numbers that its modules share.
  func withShared(of base: Checkpoint) throws -> AdapterFile { try withShared(sizes(in: base)) }

  /// The same, its modules with the sizes of the layers of `base`, which their tensors may not show.
  func sized(by base: Checkpoint) throws -> AdapterFile {
    let sizes = sizes(in: base)
    var file = try withShared(of: base)
    file.modules = try file.modules.map { module in
      guard module.shape.kind == .linear, let size = sizes(module) else { return module }
      return try completed(module, inputs: size.inputs, outputs: size.outputs)
    }
    return file
  }
}
