import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// What is trained on a base, before anything is known of it.
public struct AdapterOptions: Sendable, Equatable {
  /// How modules are adapted.
  public struct Method: RawRepresentable, Sendable, Hashable, CaseIterable {
    public let rawValue: String

    /// - Returns: nil for names of no method that trains
    public init?(rawValue: String) {
      guard rawValue == "full" || TrainableMethod.named(rawValue) != nil else { return nil }
      self.rawValue = rawValue
    }

    private init(_ name: String) { rawValue = name }

    public static let lora = Method("lora"), rslora = Method("rslora"), dora = Method("dora")
    /// No adapter: every weight of a float base.
    public static let full = Method("full")
    public static var allCases: [Method] { TrainableMethod.all.map { Method($0.name) } + [full] }

    /// nil for `full`.
    package var adapter: TrainableMethod? { TrainableMethod.named(rawValue) }
  }
  /// How factors begin.
  public typealias Start = FactorStart

  public var method = Method.lora
  public var rank = 8
  public var alpha = 16.0
  /// `all-linear`, `attention`, `mlp`, names divided by commas, or a pattern for whole paths.
  public var targets = "all-linear"
  /// The first pattern that is found in a module's path decides.
  public var rankPattern: [(pattern: String, value: Int)] = []
  public var alphaPattern: [(pattern: String, value: Double)] = []
  /// Modules trained whole, by the last part of their paths; the head of a classifier always is.
  public var modulesToSave: [String] = []
  /// Whether an embedding and a head that share a weight share what is trained in its place.
  public var keepsTied = false
  /// Tokens whose rows of the embedding are trained without the others; a head that shares the embedding's weight shares them.
  public var tokenRows: [Int] = []
  /// Biases that are trained too: `none`, `all`, `lora_only`.
  public var bias = AdapterConfig.Bias.none
  public var start = Start.kaiming
  public var dropout = 0.0
  public var seed: UInt64 = 0
  /// What the adapter calls its base; nil for what that says itself.
  public var baseName: ModelOrigin?

  public init() {}

  public static func == (a: Self, b: Self) -> Bool { a.json.text() == b.json.text() }

  /// For run records.
  package var json: JSON {
    let json: JSON = [
      "method": JSON(method.rawValue), "lora_r": JSON(rank), "lora_alpha": JSON(alpha), "target_modules": JSON(targets),
      "rank_pattern": .object(rankPattern.map { ($0.pattern, JSON($0.value)) }),
      "alpha_pattern": .object(alphaPattern.map { ($0.pattern, JSON($0.value)) }), "modules_to_save": JSON(modulesToSave),
      "bias": JSON(bias.rawValue), "init": JSON(start.rawValue), "lora_dropout": JSON(dropout),
      "seed": JSON(Int(seed & 0x7FFF_FFFF)),
    ]
    return tokenRows.isEmpty ? json : json.setting("token_rows", to: JSON(tokenRows))
  }
}

extension Trained {
  /// Factors for the layers that `options` name, as they begin.
  ///
  /// - Throws: `.usage` for targets that match nothing
  package init(_ options: AdapterOptions, on model: Model) throws {
    let parts = model.network.parts
    let layers = parts.layers.filter { $0.window == nil }
    let targets = try Targets(options.targets)
    if let stray = targets.names.first(where: { name in
      !model.linears.contains { ModuleChoice.is($0.name, name) } && !options.modulesToSave.contains(name)
    }) {
      throw NibbleError.usage("\(.targetModules): \(subject: stray) is no linear layer of \(path: model.path)")
    }
    if !targets.isEverything,
      let one = try parts.layers.first(where: { try $0.window != nil && targets.contains($0.name, parts) })
    {
      throw NibbleError.usage(
        "\(.targetModules): \(quoted(one.name)) is a convolution: factors of convolutions are not implemented")
    }
    let ranks = try options.rankPattern.map { (try Pattern($0.pattern), $0.value) }
    let alphas = try options.alphaPattern.map { (try Pattern($0.pattern), $0.value) }
    try checkMemory(options, try layers.filter { try targets.contains($0.name, parts) }, ranks)
    var stream: UInt64 = 0
    guard let kind = options.method.adapter else { return }
    for layer in layers where try targets.contains(layer.name, parts) {
      stream += 1
      guard !options.modulesToSave.contains(where: { ModuleChoice.is(layer.name, $0) }) else { continue }
      let rank = try ranks.first { try $0.0.isFound(in: layer.name) }?.1 ?? options.rank
      let alpha = try alphas.first { try $0.0.isFound(in: layer.name) }?.1 ?? options.alpha
      let random = CountedRandom(seed: options.seed, stream: stream)
      let new = NewModule(layer.matrix, rank: rank, options.start, random, model.engine)
      let path = AdapterFile.prefix + model.path(ofModule: layer.name)
      let shape = ModuleShape(input: [layer.inputs], outputs: layer.outputs, rank: rank)
      modules[layer.id] = TrainedModule(
        kind.method, shape, scale: kind.isRankStabilized ? alpha / Double(rank).squareRoot() : alpha / Double(rank),
        kind.method.start(new)
      ) { path + $0.suffix(shape) }
    }
    guard !modules.isEmpty || options.rank == 0 else {
      throw NibbleError.usage(
        "\(.targetModules, quoted(options.targets)) matches none of the \(layers.count) layers of \(path: model.path), "
          + "such as \(quoted(layers.first?.name ?? ""))")
    }
    try addWholeModules(options.modulesToSave, model)
    if options.keepsTied { shareTied(model) }
    try addTokenRows(options.tokenRows, model)
    guard options.bias != .none else { return }
    for layer in model.linears where options.bias == .all || modules[layer.id] != nil { addBias(of: layer, model) }
  }
  /// Throws for ranks whose factors no memory holds, before any is made.
  private func checkMemory(_ options: AdapterOptions, _ layers: [Linear], _ ranks: [(Pattern, Int)]) throws {
    var bytes = 0.0
    for layer in layers {
      let rank = try ranks.first { try $0.0.isFound(in: layer.name) }?.1 ?? options.rank
      // Values, gradients, two moments.
      bytes += 16 * Double(rank) * Double(layer.inputs + layer.outputs)
    }
    guard bytes <= Double(Machine.memory) else {
      throw NibbleError.usage(
        "\(.loraRank, options.rank): the factors and what trains them take \(decimal(bytes / 1e9, 1)) GB, this machine has \(byteText(Machine.memory))"
      )
    }
  }

  /// Throws for patterns of ranks and alphas that decide nothing.
  func checkPatterns(_ options: AdapterOptions, on model: Model) throws {
    let names = model.linears.filter { modules[$0.id] != nil }.map(\.name)
    for (setting, patterns) in [
      (Setting.rankPattern, options.rankPattern.map(\.pattern)), (Setting.alphaPattern, options.alphaPattern.map(\.pattern)),
    ] {
      var left = names
      for text in patterns {
        let pattern = try Pattern(text)
        let rest = try left.filter { try !pattern.isFound(in: $0) }
        guard rest.count < left.count else {
          throw NibbleError.usage(
            "\(setting, quoted(text)) decides nothing: no layer with factors has it that no pattern before it has")
        }
        left = rest
      }
    }
  }
}
