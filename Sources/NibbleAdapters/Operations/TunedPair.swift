import NibbleCore
import NibbleFormats

/// A base and what training made of it, tensor by tensor, under the names PEFT would use.
struct TunedPair: Sendable {
  /// A matrix that takes factors, and differs.
  struct Matrix {
    let path: String
    let base: StoredTensor
    let tuned: StoredTensor
    /// Whether the model's own tensor is [inputs, outputs].
    let isInputsFirst: Bool
    let isEmbedding: Bool
  }

  /// A parameter that takes none, and differs.
  struct Other {
    let name: String
    let tuned: StoredTensor
    /// ‖Δ‖ / ‖base‖; nil for what the base does not have.
    let change: Double?
  }

  /// As they were given.
  let base: Checkpoint
  let tuned: Checkpoint
  /// The same with the same tensors under the same names, where they have them.
  private let left: Checkpoint
  let right: Checkpoint
  /// Of each tensor of `right` that `tuned` calls otherwise.
  private let ownNames: [ByteName: String]
  private let targets: ModuleChoice?
  private let prefix: String?

  /// - Parameter targets: `all-linear`, names divided by commas, or a pattern for whole paths
  init(base: Checkpoint, tuned: Checkpoint, targets: String) throws {
    (self.base, self.tuned) = (base, tuned)
    self.targets = targets == "all-linear" ? nil : try ModuleChoice(targets)
    func hasHead(_ checkpoint: Checkpoint, of other: Checkpoint) -> Bool {
      other.tiedHead.map { checkpoint.tensor($0.name) != nil } ?? false
    }
    left = hasHead(tuned, of: base) ? base.untied() : base
    let names = left.tensors.map(\.name.text)
    let known = ModuleNames(names)
    var own: [ByteName: String] = [:]
    right = (hasHead(base, of: tuned) ? tuned.untied() : tuned).renamed { name in
      guard let index = known.index(of: name.text) else { return name }
      own[ByteName(names[index])] = name.text
      return ByteName(names[index])
    }
    ownNames = own
    if let twice = zip(right.tensors, right.tensors.dropFirst()).first(where: { $0.name == $1.name }) {
      throw NibbleError(
        .adapterMismatch, "\(path: tuned.path): two of its tensors are \(subject: twice.0.name.text) of \(base.path)")
    }
    prefix = Self.missingPrefix(tuned.config == nil ? base : tuned, names + right.tensors.map(\.name.text) + own.values)
    let matchesSome = try left.tensors.contains { try isTarget($0) }
    guard self.targets == nil || matchesSome else {
      throw NibbleError.usage("\(.targetModules, quoted(targets)) matches no matrix of \(path: base.path)")
    }
  }

  /// The prefix that the model's class gives names and the file does not have.
  private static func missingPrefix(_ checkpoint: Checkpoint, _ names: [String]) -> String? {
    guard let family = checkpoint.family, let type = checkpoint.modelType,
      let architecture = checkpoint.config?["architectures"]?.array?.first?.string, !architecture.hasSuffix("Model")
    else { return nil }
    let prefix = family.prefix(type)
    return names.contains { family.inModules($0).hasPrefix(prefix) } ? nil : prefix
  }

  /// As the model's class calls it.
  func peftName(_ name: ByteName) -> String {
    let own = ownNames[name] ?? name.text
    let file = own.utf8.count > name.text.utf8.count ? own : name.text, longer = base.family?.inModules(file) ?? file
    guard let prefix, !isHead(longer) else { return longer }
    return prefix + longer
  }

  func isHead(_ name: String) -> Bool { base.isHead(name) || name.hasPrefix("lm_head.") || name.hasPrefix("cls.") }

  private func isEmbedding(_ name: String) -> Bool {
    [
      "embed_tokens", "wte", "wpe", "word_embeddings", "position_embeddings", "token_type_embeddings",
    ].contains { name == $0 + ".weight" || name.hasSuffix("." + $0 + ".weight") }
  }

  private func isTarget(_ tensor: StoredTensor) throws -> Bool {
    let name = tensor.name.text
    guard name.hasSuffix(".weight"), tensor.shape.count == 2 else { return false }
    if let targets { return try targets.contains(String(peftName(tensor.name).dropLast(".weight".count))) }
    return left.family.map { $0.packs(name, hasBias: false) } ?? !NameGuess.isEmbeddingOrHead(name)
  }

  /// What differs.
  ///
  /// - Throws: `.adapterMismatch` for models of different shapes, `.quality` for values that are not finite
  func compared(_ threads: Int, progress: @escaping (Int, Int) -> Void) throws -> (
    matrices: [Matrix], others: [Other], warnings: [Warning]
  ) {
    let found = try left.diff(right, threads: threads, progress: progress)
    func mismatch(_ reason: MessageText) -> NibbleError { NibbleError(.adapterMismatch, "\(path: tuned.path): \(reason)") }
    if let strange = found.added.first(where: { !isHead($0) }) {
      let nearest = ModuleNames(left.tensors.map(\.name.text)).nearest(to: strange)
      throw mismatch(
        "\(tensor: strange) is not in \(base.path)" + (nearest.map { "; the nearest there is \(quoted($0))" } ?? ""))
    }
    if let missing = found.removed.first(where: { $0.hasSuffix(".weight") && !isHead($0) }) {
      throw mismatch("it lacks the \(tensor: missing) of \(base.path)")
    }
    var (matrices, others): ([Matrix], [Other]) = ([], [])
    for changed in found.changed where !changed.isEqual {
      let (a, b) = (changed.a, changed.b)
      guard a.logicalShape == b.logicalShape else {
        throw mismatch("\(tensor: changed.name) has shape \(b.logicalShape), \(base.path) has \(a.logicalShape)")
      }
      guard let difference = changed.difference, a.dtype.isFloat, b.dtype.isFloat else {
        throw mismatch("\(tensor: changed.name) of \(b.dtype.rawValue) differs, which is not said by an adapter")
      }
      guard difference.nonfinite == 0 else {
        throw NibbleError.quality(
          "\(tensor: changed.name) of \(path: tuned.path) or \(base.path) holds \(difference.nonfinite) NaN or infinite values")
      }
      guard try isTarget(b) else {
        others.append(
          Other(name: peftName(b.name), tuned: b, change: (difference.squaredDifference / difference.squaredA).squareRoot()))
        continue
      }
      let isEmbedding = isEmbedding(changed.name)
      if isEmbedding, let tied = tuned.tiedEmbedding, ownNames[b.name] == tied.name.text || b.name == tied.name {
        throw NibbleError.usage(
          "\(subject: changed.name) is the output head too, which factors of an embedding do not change; leave it out of \(.targetModules)"
        )
      }
      let isConv1D = left.family?.isConv1D(changed.name) ?? false
      matrices.append(
        Matrix(
          path: String(peftName(b.name).dropLast(".weight".count)), base: a, tuned: b, isInputsFirst: isEmbedding || isConv1D,
          isEmbedding: isEmbedding))
    }
    others += found.added.compactMap { right.tensor(ByteName($0)) }.map { Other(name: $0.name.text, tuned: $0, change: nil) }
    var warnings: [Warning] = []
    if let first = found.removed.first {
      warnings.append(
        .init(
          .identity,
          "\(path: tuned.path) lacks \(found.removed.count) tensors of \(base.path), \(subject: first) the first; "
            + "the adapter leaves them as they are"))
    }
    return (matrices, others, warnings)
  }
}

/// Parameters that an adapter holds whole, as PEFT has them: modules trained whole, and biases beside factors.
struct SavedParameters {
  /// By the names of files.
  fileprivate(set) var named: [(name: String, tensor: StoredTensor)] = []
  fileprivate(set) var modules: [String] = []
  fileprivate(set) var hasBiases = false

  func tensors() throws -> [AdapterFolder.Tensor] {
    try named.map { name, tensor in
      guard !tensor.isTransposed else {
        throw NibbleError.badInput("\(tensor: tensor.name.text) is packed, and is not saved whole")
      }
      return AdapterFolder.Tensor(AdapterFile.prefix + name, copying: tensor)
    }
  }
}

extension TunedPair {
  /// How `others` are saved beside `factored` modules.
  func saved(_ others: [Other], beside factored: [FactoredModule]) -> SavedParameters {
    var saved = SavedParameters()
    let adapted = Set(factored.map(\.path))
    let all = right.tensors.map { (name: peftName($0.name), tensor: $0) }
    func module(_ name: String) -> String {
      // A head is one module, whatever it is made of.
      let parts = name.split(separator: ".")
      return base.isHead(name) ? String(parts[0]) : parts.dropLast().joined(separator: ".")
    }
    var whole = Set(others.filter { !$0.name.hasSuffix(".bias") || base.isHead($0.name) }.map { module($0.name) })
    if let tied = tiedPath, whole.contains(tied.embedding), let weight = tuned.tiedEmbedding {
      // PEFT takes the head for another module, which it finds beside the embedding only where it is there too.
      whole.insert(tied.head)
      let name = tied.head + ".weight"
      if !all.contains(where: { $0.name == name }) { saved.named.append((name, weight)) }
    }
    saved.modules = whole.sorted()
    for (name, tensor) in all where whole.contains(module(name)) { saved.named.append((name, tensor)) }
    for one in others where !whole.contains(module(one.name)) {
      saved.hasBiases = true
      let own = module(one.name)
      saved.named.append((adapted.contains(own) ? own + ".base_layer.bias" : one.name, one.tuned))
    }
    return saved
  }

  /// Where the tuned model's output head shares the embedding's weight, both as PEFT calls them.
  private var tiedPath: (embedding: String, head: String)? {
    guard let tied = tuned.tiedHead else { return nil }
    let names = ModuleNames(right.tensors.map(\.name.text))
    guard let index = names.index(of: tied.source.name.text) else { return nil }
    return (
      String(peftName(right.tensors[index].name).dropLast(".weight".count)), String(tied.name.text.dropLast(".weight".count)))
  }

  func config(_ factored: [FactoredModule], _ saved: SavedParameters) -> JSON {
    let kind = (tuned.networkConfig ?? base.networkConfig)?["architectures"]?.array?.first?.string ?? ""
    let tasks = [
      ("CausalLM", "CAUSAL_LM"), ("LMHead", "CAUSAL_LM"), ("SequenceClassification", "SEQ_CLS"),
      ("TokenClassification", "TOKEN_CLS"),
      ("QuestionAnswering", "QUESTION_ANS"),
    ]
    let tiesEmbedding = base.tiedEmbedding != nil && tiedPath.map { saved.modules.contains($0.embedding) } ?? false
    let name = base.nameForAdapters
    let modules = right.tensors.map { peftName($0.name) }.map { String($0[..<($0.lastIndex(of: ".") ?? $0.endIndex)]) }
    let isConv1D = factored.contains { left.family?.isConv1D($0.path + ".weight") ?? false }
    return [
      "peft_type": "LORA", "task_type": JSON(tasks.first { kind.contains($0.0) }?.1), "base_model_name_or_path": JSON(name.name),
      "revision": JSON(name.revision),
      "r": 1, "lora_alpha": 1, "lora_dropout": JSON(0.0), "use_rslora": .bool(false), "use_dora": .bool(false),
      "target_modules": JSON(ShortTargets.names(factored.map(\.path), among: modules)),
      "modules_to_save": saved.modules.isEmpty ? .null : JSON(saved.modules), "rank_pattern": .object([]),
      "alpha_pattern": .object([]), "bias": JSON(saved.hasBiases ? "all" : "none"), "fan_in_fan_out": .bool(isConv1D),
      "ensure_weight_tying": .bool(tiesEmbedding), "init_lora_weights": .bool(true), "inference_mode": .bool(true),
    ]
  }
}
