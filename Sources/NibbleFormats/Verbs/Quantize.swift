import NibbleCore
import NibbleQuant

/// How to quantize a checkpoint.
public struct QuantizeOptions: Sendable {
  /// For tensors that are packed by default.
  public var codec = CodecChoice.packed(.nf4)
  /// Elements that share a scale.
  public var blockSize = 64
  /// Whether scales are coded too.
  public var doubleQuant = true
  /// Rows and columns of a tile.
  public var tile = (rows: 8, columns: 4)
  /// Elements of a group of whole numbers; 0 for a row.
  public var groupSize = 64
  /// How zeros of groups are stored.
  public var zeros = Int4Groups.Zero.half
  /// The first that is found in a tensor's name decides; without any, the architecture does.
  public var rules: [PackingRule] = []
  /// Corner cases as one of bitsandbytes' kernels has them.
  public var bnbRules = EncodingRules.nearest
  /// Whether the codec was asked for: a source that is packed already with another one is then refused.
  public var insistsOnCodec = false
  /// How scales are chosen; nil for `defaultEncoder` and, where something is merged into a packed base, for what that has.
  public var encoder: StreamJob.Encoder?
  /// How scales are chosen where nothing else is asked for.
  public var defaultEncoder = StreamJob.Encoder.absmax
  /// How offsets of blocks are chosen; nil for blocks without offsets and, where something is merged into a packed base, for what that has.
  public var offsets: OffsetSearch?
  /// How codes are chosen from a text and what text that is, for the record of the output; nil where they are not.
  public var calibration: (encoder: String, text: JSON)?
  /// Rank and steps of LoftQ, for the record of the output; nil where codes are those of the weights themselves.
  public var loftq: (rank: Int, steps: Int)?

  /// NF4, blocks of 64, double quantization, the architecture's own choice of tensors.
  public init() {}
}

/// What is going to be done with each tensor, and why.
public struct PackingDecision: Sendable {
  /// The tensor.
  public let tensor: StoredTensor
  /// What it will be coded with.
  public let choice: CodecChoice
  /// Elements of a block, if it is packed.
  public let blockSize: Int
  /// What decided.
  public let reason: PackingReason
  /// Elements of a group, where a rule says.
  var groupSize: Int?
}

extension StreamJob {
  /// A job that quantizes `source`.
  ///
  /// - Throws: `.usage` for rules that match nothing or ask for what cannot be; `.badInput` for sources that are
  ///   quantized in ways nibble does not read
  public static func quantize(_ source: Checkpoint, _ options: QuantizeOptions, to output: OutputSpec) throws -> StreamJob {
    try source.refuseUnknownQuantization()
    if output.format.choosesTypes { return try convert(source, to: output) }
    let decisions = output.format.container.loadable(try decide(source, options), of: source)
    let items = try decisions.map { try item($0, options, source, output.format.container) }
    try checkPacksSomething(decisions, options, source)
    guard !items.isEmpty || source.tensors.isEmpty else { throw NibbleError.badInput("\(path: source.path): no tensors") }
    var job = StreamJob(source, items: items, output: output)
    job.decisions = decisions
    job.rules = options.bnbRules
    job.encoder = options.encoder ?? options.defaultEncoder
    try job.take(offsets: options.offsets)
    let settings = options.provenance
    job.provenance = { identity in
      ["tool": JSON("nibble " + nibbleVersion), "verb": "quantize", "source": JSON(identity.description), "options": settings]
    }
    job.warnings += warnings(decisions) + roundedTwice(items, source)
    if options.encoder ?? .absmax != .absmax, !items.contains(where: { $0.target.encoding.kind.searchesScales && !$0.source.isPacked }) {
      job.warnings.append(unusedEncoder(options.calibration?.encoder ?? job.encoder.rawValue))
    }
    if let type = source.modelType, source.family?.runs(type) != true {
      job.warnings.append(
        .init(
          .compatibility,
          "models of model_type \(quoted(type)) can be packed, converted and merged, not run: generate, evaluate and finetune refuse them"
        ))
    }
    let vectors = items.filter { $0.target.encoding.isPacked && !$0.source.isPacked && $0.target.shape.count == 1 }
    if let first = vectors.first, source.modelType.flatMap({ type in source.family?.runs(type) }) == true {
      job.warnings.append(
        .init(.compatibility, "\(vectors.count) vectors are packed, \(quoted(first.source.name.text)) the first: models whose norms or biases are codes do not run"))
    }
    if output.format == .bnb, source.family == nil, let type = source.modelType {
      job.warnings.append(
        .init(
          .compatibility,
          "nibble's choice for the architecture \(quoted(type)) was not checked against transformers', which may not load the output"
        ))
    }
    let already = decisions.filter { $0.reason == .alreadyPacked }
    if !already.isEmpty {
      job.warnings.append(
        .init(
          .unused,
          "\(path: source.path): \(already.count) tensors are packed already and stay as they are; dequantize first to pack them again"
        ))
    }
    if !items.contains(where: { $0.target.encoding.isPacked }) {
      job.warnings.append(.init(.unused, "no tensor is packed: the output is not smaller than the input"))
    }
    return job
  }

  package static func unusedEncoder(_ name: String) -> Warning {
    .init(.unused, "\(.encoder, name) chooses scales of 4-bit blocks or groups, and nothing is packed into any")
  }

  /// Chooses offsets so, of tensors that have some too.
  ///
  /// - Parameter given: nil for the default
  /// - Throws: `.usage` where one is given and no tensor is packed into blocks with offsets
  package mutating func take(offsets given: OffsetSearch?) throws {
    guard let given else { return }
    guard items.contains(where: { $0.target.encoding.kind.hasOffsets }) else {
      throw NibbleError.usage("\(path: source.path): \(.encoder, "icq") adds offsets to blocks of nf4, and no tensor is packed into any")
    }
    offsets = given
    offsets.keepsOffsets = false
  }

  /// What happens to each tensor of `source`, in name order.
  public static func decide(_ source: Checkpoint, _ options: QuantizeOptions) throws -> [PackingDecision] {
    var matched = [Bool](repeating: false, count: options.rules.count)
    let names = Set(source.tensors.map(\.name))
    var decisions: [PackingDecision] = []
    for tensor in source.tensors {
      var choice: (CodecChoice, Int, PackingReason)?
      var groupSize: Int?
      for (index, rule) in options.rules.enumerated() where choice == nil || !matched[index] {
        guard try rule.pattern.isFound(in: tensor.name.text) else { continue }
        matched[index] = true
        if choice == nil { (choice, groupSize) = ((rule.choice, rule.blockSize ?? options.blockSize, .rule), rule.groupSize) }
      }
      let (codec, blockSize, reason) = choice ?? byDefault(tensor, source, names, options)
      decisions.append(PackingDecision(tensor: tensor, choice: codec, blockSize: blockSize, reason: reason, groupSize: groupSize))
    }
    if let unused = matched.firstIndex(of: false) {
      if let tied = try source.tiedParameters.first(where: { try options.rules[unused].pattern.isFound(in: $0.name.text) }) {
        throw NibbleError.usage(
          "\(path: source.path): rule \(subject: options.rules[unused].text) matches none of the tensors: "
            + "the model ties \(quoted(tied.name.text)) to \(quoted(tied.source.name.text)), which is stored once; name the latter")
      }
      throw NibbleError.usage(
        "\(path: source.path): rule \(subject: options.rules[unused].text) matches none of the \(source.tensors.count) tensors")
    }
    return decisions
  }

  private static func byDefault(
    _ tensor: StoredTensor, _ source: Checkpoint, _ names: Set<ByteName>, _ options: QuantizeOptions
  ) -> (CodecChoice, Int, PackingReason) {
    func keep(_ reason: PackingReason) -> (CodecChoice, Int, PackingReason) { (.keep, options.blockSize, reason) }
    let name = tensor.name.text
    if tensor.isPacked, !tensor.encoding.kind.isForeign { return keep(.alreadyPacked) }
    guard tensor.dtype.isFloat else { return keep(.notFloat) }
    if tensor.count == 0 { return keep(.empty) }
    if tensor.shape.count == 4, source.family?.packsConvolution(name) == true, options.packs(tensor) {
      return (options.codec, options.blockSize, .convolution)
    }
    guard tensor.shape.count == 2 else { return keep(tensor.shape.count == 3 ? .stacked : .notTwoDimensional) }
    guard name.hasSuffix(".weight") else { return keep(.notTwoDimensional) }
    if let family = source.family, family.judges(name) {
      let bias = ByteName(String(name.dropLast("weight".count)) + "bias")
      guard family.packs(name, hasBias: names.contains(bias)) else { return keep(.keptByFamily) }
      return (options.codec, options.blockSize, .family)
    }
    if source.family?.judges(name) == false, case .codec(let kind) = options.codec, kind.hasGroups { return keep(.otherPart) }
    if NameGuess.isEmbeddingOrHead(name) || source.added.contains(tensor.name) { return keep(.embeddingOrHead) }
    return (options.codec, options.blockSize, .shape)
  }

  private static func item(
    _ decision: PackingDecision, _ options: QuantizeOptions, _ source: Checkpoint, _ container: any Container
  ) throws -> Item {
    let tensor = decision.tensor
    var target = TensorTarget(keeping: tensor, in: container)
    let isReadAsNumbers = !tensor.isPacked || tensor.encoding.kind.isForeign
    func refuse(_ why: MessageText) -> NibbleError {
      .usage("\(path: source.path): \(tensor: tensor.name.text) cannot become \(decision.choice.name): \(why)")
    }
    switch decision.choice {
    case .keep: break
    case .cast(let dtype):
      guard isReadAsNumbers else { throw refuse("it is packed; dequantize it first") }
      guard tensor.dtype.isFloat else { throw refuse("its dtype is \(tensor.dtype.rawValue)") }
      if tensor.isPacked { target.becomePlain(tensor) }
      target.dtype = dtype
    case .codec(let kind):
      guard isReadAsNumbers else { throw refuse("it is packed already; dequantize it first") }
      guard tensor.dtype.isFloat else { throw refuse("its dtype is \(tensor.dtype.rawValue)") }
      guard tensor.count > 0 else { throw refuse("it has no elements") }
      let codec = options.codec(kind, blockSize: decision.blockSize, groupSize: decision.groupSize, tensor.dtype, in: container)
      (target.shape, target.isTransposed) = (tensor.shape, tensor.isTransposed)
      if let reason = codec.refusal(tensor.dtype, tensor.shape) {
        let columns = kind.hasGroups && tensor.shape.count == 2 ? tensor.shape[1] : 1
        let size = columns % Int4Groups.sizes[0] == 0 ? Int4Groups.sizes.last { columns % $0 == 0 } : nil
        throw refuse("\(reason)" + (size.map { "; \(.groupSize, $0) divides them, or keep it (\(.keep))" } ?? "; keep it (\(.keep))"))
      }
      target.encoding = WeightEncoding(codec)
      // Blocks say float32, float16 or bfloat16; float64 is rounded to float32 before it is packed.
      if tensor.dtype == .f64 { target.dtype = .f32 }
      if source.family?.isConv1D(tensor.name.text) == true, tensor.shape.count == 2, !tensor.isTransposed {
        target.isTransposed = true
        target.shape = tensor.shape.reversed()
      }
    }
    return Item(source: tensor, target: target)
  }
}

extension QuantizeOptions {
  /// Whether the codec for tensors that are packed by default takes tensors of this one's type and shape.
  fileprivate func packs(_ tensor: StoredTensor) -> Bool {
    guard case .codec(let kind) = codec else { return true }
    return kind.make(CodecSettings(blockSize: blockSize, doubleQuant: doubleQuant)).refusal(tensor.dtype, tensor.shape) == nil
  }

  /// A codec of a kind, as these options have it for tensors of a type.
  func codec(_ kind: CodecKind, blockSize: Int?, groupSize: Int?, _ dtype: DType, in container: any Container) -> any WeightCodec {
    var settings = CodecSettings(blockSize: blockSize ?? self.blockSize, doubleQuant: doubleQuant)
    (settings.groupSize, settings.zeros) = (groupSize ?? self.groupSize, zeros)
    settings.offsets = offsets != nil
    settings.tile = tile
    settings.scale = container.groupScale(of: dtype)
    return kind.make(settings)
  }

  /// What decides the bytes of the output, beside the source.
  package var provenance: JSON {
    let own: JSON = [
      "codec": JSON(codec.name), "block_size": JSON(blockSize), "double_quant": JSON.bool(doubleQuant),
      "encoder": JSON(offsets?.text ?? (encoder ?? defaultEncoder).rawValue), "bnb_rules": JSON(bnbRules.rawValue), "rules": JSON(rules.map(\.text)),
    ]
    let grouped = ([codec] + rules.map(\.choice)).contains { if case .codec(let kind) = $0 { kind.hasGroups } else { false } }
    let full = grouped ? own.setting("group_size", to: JSON(groupSize)).setting("zeros", to: JSON(zeros.rawValue)) : own
    let tiled = ([codec] + rules.map(\.choice)).contains { if case .codec(let kind) = $0 { kind.hasTiles } else { false } }
    let coded = tiled ? full.setting("tile", to: JSON("\(tile.rows)x\(tile.columns)")) : full
    let all = loftq.map { coded.setting("loftq", to: ["rank": JSON($0.rank), "steps": JSON($0.steps)]) } ?? coded
    guard let calibration else { return all }
    return all.setting("encoder", to: JSON(calibration.encoder)).setting("calibration", to: calibration.text)
  }
}

extension Checkpoint {
  /// How the offsets of its packed tensors were chosen, by its own account; nil where it says nothing of any.
  package var offsets: OffsetSearch? { provenance?["options"]?["encoder"]?.string.flatMap { OffsetSearch(text: $0) } }

  /// How the scales of its packed tensors were chosen, by its own account.
  package var encoder: StreamJob.Encoder {
    guard let name = provenance?["options"]?["encoder"]?.string else { return .absmax }
    // Calibrated codes stand on scales of either sign.
    return StreamJob.Encoder(rawValue: name) ?? (name == "calibrated" ? .mseSigned : .absmax)
  }
}

/// The version of this program and of the files it writes.
public let nibbleVersion = "0.1.0"
