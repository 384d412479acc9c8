import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// A model that is open: its checkpoint mapped, its weights in place, ready to compute.
public final class Model: @unchecked Sendable {
  /// What products are computed in.
  public typealias Precision = Compute

  /// As it was given.
  public let path: String
  package let checkpoint: Checkpoint
  package let config: ConfigReader
  package let transformer: Transformer
  /// The head that was put on it, if one was.
  package let newHead: NewHead?
  /// Full names of parameters, by ID.
  package let parameterNames: [String]

  /// Opens the checkpoint at `path` to run it. No weight is copied, but vectors.
  ///
  /// - Parameters:
  ///   - precision: float32, or bfloat16 factors with float32 sums: faster, within 1 % of the loss
  ///   - threads: cores to compute with
  ///   - classifier: a head in place of the model's own
  ///   - patch: what is applied to the block file, in memory alone
  ///   - verifies: whether sections that have checksums, a block file's, are checked against them, which reads them once
  /// - Throws: `.badInput` for architectures and configurations nibble has no code for, by name; `.integrity`
  public convenience init(
    _ path: String, precision: Precision = .f32, threads: Int = availableCores, classifier: NewHead? = nil,
    patch: PatchFile? = nil, verifies: Bool = true
  ) throws {
    let checkpoint = try Checkpoint.open(path)
    try self.init(
      patch.map { try checkpoint.patched(by: $0) } ?? checkpoint, precision: precision, team: Team(threads: threads),
      classifier: classifier, verifies: verifies)
  }

  package init(_ checkpoint: Checkpoint, precision: Precision, team: Team, classifier: NewHead? = nil, verifies: Bool = true)
    throws
  {
    path = checkpoint.path
    self.checkpoint = checkpoint
    guard let json = checkpoint.config else {
      throw NibbleError.badInput("\(path: checkpoint.path): no config.json: what model the weights belong to is not known")
    }
    config = ConfigReader(json, place: "\(path: checkpoint.path): config.json")
    let type = try config.string("model_type") ?? ""
    guard let architecture = Architectures.named(type) else {
      throw config.fail(
        "\(key: "model_type") \(quoted(type)) is not implemented; \(Architectures.modelTypes.joined(separator: ", ")) are")
    }
    let shape = try architecture.shape(config)
    let source = WeightSource(try MappedCheckpoint(checkpoint), prefix: ModelFamily.named(type)?.prefix(type) ?? "")
    var weights = try architecture.weights(shape, config, source)
    if verifies { try source.checkSections(threads: team.threads) }
    var names = source.names
    if let classifier {
      weights.head = .classification(classifier.head(width: shape.width, id: names.count))
      names += [NewHead.name + ".weight", NewHead.name + ".bias"]
    }
    newHead = classifier
    parameterNames = names
    transformer = Transformer(shape, weights, Engine(precision, team: team))
  }

  /// The most tokens a sequence may have.
  public var contextLength: Int { transformer.shape.contextLength }
  /// Scores a token of text gets.
  public var vocabularySize: Int { transformer.shape.vocabulary }

  /// A module's path as PEFT finds it: of a bare checkpoint under a head of our own, the bare model's.
  package func path(ofModule name: String) -> String {
    guard newHead != nil, name != NewHead.name, checkpoint.tensor(ByteName(name + ".weight")) == nil,
      let dot = name.firstIndex(of: ".")
    else { return name }
    let bare = String(name[name.index(after: dot)...])
    return checkpoint.tensor(ByteName(bare + ".weight")) == nil ? name : bare
  }

  /// Classes a classifier tells apart; nil for other models.
  public var classCount: Int? {
    if case .classification(let head) = transformer.weights.head { head.output.outputs } else { nil }
  }
  /// What they are called: by the head's own record, or the configuration's `id2label`. Empty where neither says it of each.
  public var classNames: [String] {
    guard let classCount else { return [] }
    if let newHead { return newHead.names }
    let names = checkpoint.config?["id2label"].map { table in (0..<classCount).map { table[String($0)]?.string } } ?? []
    return names.contains(nil) ? [] : names.compactMap { $0 }
  }
  /// Whether a text may have several of them.
  public var hasManyLabels: Bool {
    if case .classification(let head) = transformer.weights.head { head.problem == .manyLabels } else { false }
  }
  /// Whether the head gives numbers rather than scores of classes.
  public var isRegression: Bool {
    if case .classification(let head) = transformer.weights.head { head.problem == .regression } else { false }
  }

  package var shape: TransformerShape { transformer.shape }

  /// Every linear layer, in the order of the pass, then those no pass uses.
  package var linears: [Linear] { usedLinears + transformer.weights.idle }

  private var usedLinears: [Linear] {
    let weights = transformer.weights
    let layers = weights.layers.flatMap(\.linears)
    switch weights.head {
    case .language(let head): return layers + [head]
    case .classification(let head): return layers + head.dense + [head.output]
    case .none: return layers
    }
  }

  package var norms: [Norm] {
    let weights = transformer.weights
    return weights.layers.flatMap { [$0.attentionNorm, $0.mlpNorm] }
      + [weights.embeddingNorm, weights.finalNorm].compactMap { $0 }
  }

  package var embeddings: [Embedding] {
    [transformer.weights.tokens, transformer.weights.positions, transformer.weights.tokenTypes].compactMap { $0 }
  }
}
