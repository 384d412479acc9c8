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
  package let network: any Network
  /// The network, if it is one of texts.
  private let tokenNetwork: (any TokenNetwork)?
  /// The head that was put on it, if one was.
  package let newHead: NewHead?
  /// The head that the checkpoint holds, if no class of transformers has it.
  private let storedHead: NewHead?
  /// Full names of parameters, by ID.
  package let parameterNames: [String]
  /// Names of the checkpoint's tensors that this model does without: those of a head that another one takes the place of, and numbers of positions.
  public let unusedTensors: [String]

  /// Paths of the modules that belong to other parts than the text model of one that takes pictures as well.
  package let otherModules: [String]

  /// Opens the checkpoint at `path` to run it. Only vectors are copied.
  ///
  /// - Parameters:
  ///   - precision: float32, or bfloat16 factors with float32 sums: faster, within 1 % of the loss
  ///   - threads: cores to compute with
  ///   - classifier: a head in place of the model's own
  ///   - patch: applied to the block file, in memory only
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

  /// - Parameter architectures: the families that run
  package init(
    _ checkpoint: Checkpoint, precision: Precision, team: Team, classifier: NewHead? = nil, verifies: Bool = true,
    architectures: Architectures = .all
  ) throws {
    path = checkpoint.path
    guard let json = checkpoint.networkConfig else {
      throw NibbleError.badInput("\(path: checkpoint.path): no config.json, so the architecture is not known")
    }
    let usesModelHead = classifier?.isTransformers == true
    config = ConfigReader(
      usesModelHead ? classifier?.configuration(json) ?? json : json,
      place: "\(path: checkpoint.path): config.json\(checkpoint.hasTextConfig ? ": text_config" : "")")
    try config.refuse([GgufUntranslated.key])
    let type = try config.string("model_type") ?? ""
    guard let architecture = architectures.named(type) else {
      throw config.fail(
        "\(key: "model_type") \(quoted(type)) is not implemented; \((architectures.modelTypes + TextPart.modelTypes).joined(separator: ", ")) are")
    }
    if let family = checkpoint.family, family.part != nil {
      guard family.runs(checkpoint.modelType ?? "") else {
        throw config.fail("\(key: "model_type") \(quoted(type)) is not implemented for the text model of \(quoted(checkpoint.modelType ?? ""))")
      }
      guard classifier == nil else {
        throw NibbleError.usage("\(path): new heads are not implemented for models that take pictures as well; \(quoted(checkpoint.modelType ?? "")) is one")
      }
      let name = try config.architectureClass()
      guard name.hasSuffix("ForCausalLM") else {
        throw config.fail("architecture \(quoted(name)) is not implemented: of models that take pictures as well the language model runs")
      }
    }
    let source = WeightSource(try MappedCheckpoint(checkpoint))
    source.headSeed = classifier?.seed ?? 0
    if let classifier, classifier.pooling == .each, try !architecture.beginTokenHead(config, labels: classifier.labels, source) {
      throw NibbleError.usage("classes of tokens are not implemented for models of model_type \(quoted(type))")
    }
    if let classifier, classifier.pooling == .span, try !architecture.beginSpanHead(config, source) {
      throw NibbleError.usage("answers marked in a text are not implemented for models of model_type \(quoted(type))")
    }
    if let classifier, classifier.pooling == .model, try !architecture.beginHead(config, labels: classifier.labels, source) {
      throw NibbleError.usage("models of model_type \(quoted(type)) have no classification head that begins anew")
    }
    storedHead = try classifier == nil ? NewHead(storedIn: config, path: checkpoint.path) : nil
    let output = try storedHead.map { try source.linear(NewHead.name, outputs: $0.labels) }
    network = try architecture.network(config, source, Engine(precision, team: team))
    tokenNetwork = network as? any TokenNetwork
    guard classifier == nil && storedHead == nil || !(network is EncoderDecoder) else {
      throw NibbleError.usage("\(path): classes and answers marked in a text are not implemented for models of model_type \(quoted(type))")
    }
    unusedTensors = source.unused
    otherModules = source.otherModules
    self.checkpoint = checkpoint.warning(ofUnused: source.ofOtherParts)
    if verifies { try source.checkSections(threads: team.threads) }
    var names = source.names
    if let storedHead, let output {
      guard output.inputs == network.width else {
        throw NibbleError.badInput("\(path: path): \(tensor: NewHead.name + ".weight") takes \(output.inputs) numbers, the model gives \(network.width)")
      }
      network.head = .classification(storedHead.head(output))
    }
    if let classifier, !usesModelHead {
      network.head = .classification(classifier.head(width: network.width, id: names.count))
      names += [NewHead.name + ".weight", NewHead.name + ".bias"]
    }
    newHead = classifier
    parameterNames = names
  }

  /// The network as one of texts, for what only these have.
  ///
  /// - Parameter purpose: what asks for it, the subject of a sentence
  /// - Throws: `.usage` naming the model's type and the purpose
  package func tokens(for purpose: String) throws -> any TokenNetwork {
    guard let tokenNetwork else {
      throw NibbleError.usage("\(path): \(purpose) needs a text model; one of model_type \(quoted(modelType)) takes images")
    }
    return tokenNetwork
  }

  /// The same for what looks at one text, each token scored from the others.
  ///
  /// - Throws: `.usage` naming the model's type and the purpose for other models, and for those that read one text and write another
  package func oneText(for purpose: String) throws -> any TokenNetwork {
    guard !answersPrompts else {
      throw NibbleError.usage(
        "\(path): \(purpose): not for models that read one text and write another; model_type \(quoted(modelType)) is one")
    }
    return try tokens(for: purpose)
  }

  /// The most tokens a sequence may have.
  ///
  /// - Throws: `.usage` for models that take no texts
  public var contextLength: Int { get throws { try tokens(for: "a context").contextLength } }
  /// Scores a token of text gets.
  ///
  /// - Throws: `.usage` for models that take no texts
  public var vocabularySize: Int { get throws { try tokens(for: "a vocabulary").vocabulary } }

  /// Whether it takes images, and no texts.
  public var takesImages: Bool { tokenNetwork == nil }

  package var engine: Engine { network.engine }
  package var head: Head { network.head }
  private var modelType: String { config["model_type"]?.string ?? "" }

  /// A module's path as PEFT finds it: of a bare checkpoint under a head of our own, the bare model's.
  package func path(ofModule name: String) -> String {
    guard let newHead, !newHead.isTransformers, name != NewHead.name, checkpoint.tensor(ByteName(name + ".weight")) == nil,
      let dot = name.firstIndex(of: ".")
    else { return name }
    let bare = String(name[name.index(after: dot)...])
    return checkpoint.tensor(ByteName(bare + ".weight")) == nil ? name : bare
  }

  /// Whether it writes texts: each token is scored from those before it.
  public var writesText: Bool {
    guard case .language = head else { return false }
    return (network as? Transformer)?.shape.isCausal ?? answersPrompts
  }

  /// Whether what it writes does not continue the prompt: an encoder reads that, and a decoder writes.
  public var answersPrompts: Bool { answering != nil }

  /// The network, if it is an encoder and a decoder.
  package var answering: EncoderDecoder? { network as? EncoderDecoder }

  /// Classes it tells apart for every token; nil for models that do not.
  public var tokenClassCount: Int? { if case .tokens(let head) = head { head.outputs } else { nil } }

  /// Classes a classifier tells apart; nil for other models.
  public var classCount: Int? {
    if case .classification(let head) = head { head.output.outputs } else { nil }
  }
  /// What they are called: by the head's own record, or the configuration's `id2label`. Empty where neither says it of each.
  public var classNames: [String] {
    guard let count = classCount ?? tokenClassCount else { return [] }
    if let head = newHead ?? storedHead { return head.names }
    let names = checkpoint.config?["id2label"].map { table in (0..<count).map { table[String($0)]?.string } } ?? []
    return names.contains(nil) ? [] : names.compactMap { $0 }
  }
  /// Whether a text may have several of them.
  public var hasManyLabels: Bool {
    if case .classification(let head) = head { head.problem == .manyLabels } else { false }
  }
  /// Whether the head gives numbers rather than scores of classes.
  public var isRegression: Bool {
    if case .classification(let head) = head { head.problem == .regression } else { false }
  }

  /// Every linear layer and convolution, in the order of the pass, then those no pass uses.
  package var linears: [Linear] { network.parts.layers + head.layers + network.parts.idle }
  package var norms: [Norm] { network.parts.norms + head.norms }
  package var embeddings: [Embedding] { network.parts.embeddings }

  /// A layer that scores the vocabulary and shares the weight of the embedding of tokens, and the latter.
  package var tied: (head: Linear, tokens: Embedding)? {
    guard let pair = sharedTokens, vocabularyLayer != nil else { return nil }
    return pair
  }

  /// What scores the vocabulary with the weight of the embedding of tokens, be it no layer of its own, and the latter.
  package var sharedTokens: (head: Linear, tokens: Embedding)? {
    guard let head = head.vocabulary, let tokens = tokenNetwork?.tokens, head.matrix.native.data == tokens.matrix.native.data
    else { return nil }
    return (head, tokens)
  }

  /// The same where the former is no layer: what takes the embedding's place takes its.
  package var embeddingScorer: (head: Linear, tokens: Embedding)? { vocabularyLayer == nil ? sharedTokens : nil }

  /// The layer that scores the vocabulary.
  package var vocabularyLayer: Linear? { head.vocabulary.flatMap { own in head.layers.contains { $0.id == own.id } ? own : nil } }

  /// The parameter that `id` stands for where two names mean one: the other one, unless that is among those `given` by its own name.
  package func own(_ id: ParameterID, given: [ParameterID]) -> ParameterID {
    guard case .masked(let head) = head, head.otherBias == id, let bias = head.output.bias, !given.contains(bias.id) else { return id }
    return bias.id
  }

  /// Another name of the parameter `id`.
  package func otherName(of id: ParameterID) -> ParameterID? {
    guard case .masked(let head) = head, head.output.bias?.id == id else { return nil }
    return head.otherBias
  }

  /// Whether it tells which token a mask hides.
  public var fillsMasks: Bool { if case .masked = head { true } else { false } }

  /// What scores the vocabulary, as the table of a row for each token that it is.
  package var headTable: Embedding? {
    guard let layer = head.vocabulary, !layer.isConv1D, !layer.matrix.isTransposed else { return nil }
    return Embedding(name: layer.name, id: layer.id, matrix: layer.matrix)
  }

  /// The embedding of tokens, of a model that has one.
  package var tokenEmbedding: Embedding? { tokenNetwork?.tokens }
}
