import NibbleAdapters
import NibbleCalibration
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
    /// The method's own, by their keys in `adapter_config.json`.
    package var settings: [MethodSetting] { adapter?.method.settings ?? [] }
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
  /// Ranks of layers of a kind or depth that no pattern is for.
  public var layerRanks = LayerRanks()
  /// Whether layers with a rank of their own have the common scale instead of the common alpha.
  public var fixesScale = false
  /// The method's own numbers, by the keys of its configuration; what is missing is as the method says.
  public var settings: [String: Double] = [:]
  /// The same of modules: the first pattern of a key that is found in a path decides.
  public var settingPatterns: [(key: String, pattern: String, value: Double)] = []
  /// Modules trained whole, by the last part of their paths; the head of a classifier always is.
  public var modulesToSave: [String] = []
  /// Whether an embedding and a head that share a weight share what is trained in its place.
  public var keepsTied = false
  /// Tokens whose rows of the embedding are trained without the others; a head that shares the embedding's weight shares them.
  public var tokenRows: [Int] = []
  /// Biases that are trained too: `none`, `all`, `lora_only`.
  public var bias = AdapterConfig.Bias.none
  public var start = Start.kaiming
  /// The start's own numbers, by PEFT's names for them.
  public var startSettings: [String: Double] = [:]
  /// What layers take, for starts that go by it.
  public var statistics: StatisticsFile?
  /// The model before it was packed, for starts that go by it.
  public var original: Checkpoint?
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
    var all = tokenRows.isEmpty ? json : json.setting("token_rows", to: JSON(tokenRows))
    if let ranks = layerRanks.json { all = all.setting("layer_ranks", to: ranks) }
    if fixesScale { all = all.setting("fixed_scale", to: true) }
    if !startSettings.isEmpty {
      all = all.setting("init_option", to: .object(startSettings.sorted { $0.key < $1.key }.map { ($0.key, JSON($0.value)) }))
    }
    if let statistics { all = all.setting("statistics", to: JSON("\(statistics.tokens) tokens, \(statistics.text)")) }
    guard !settings.isEmpty || !settingPatterns.isEmpty else { return all }
    let patterns = settingPatterns.map { JSON.array([JSON($0.key), JSON($0.pattern), JSON($0.value)]) }
    return all.setting("settings", to: .object(settings.sorted { $0.key < $1.key }.map { ($0.key, JSON($0.value)) }))
      .setting("setting_patterns", to: .array(patterns))
  }

  /// The number that modules without a pattern of their own have.
  package func common(_ setting: MethodSetting) -> Double? { settings[setting.key] ?? setting.standard }
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
    let factors = try LayerFactors(options, parts)
    let patterns = try options.settingPatterns.map { (key: $0.key, pattern: try Pattern($0.pattern), value: $0.value) }
    var stream: UInt64 = 0
    guard let kind = options.method.adapter else { return }
    if kind.method.needsFloats, let packed = model.checkpoint.packed.first {
      throw NibbleError.usage(
        "\(.method, options.method.rawValue) moves float weights; \(path: model.path) holds packed ones, \(subject: packed.name.text) the first")
    }
    for (setting, isEmpty) in [
      (Setting.rankPattern, options.rankPattern.isEmpty && options.layerRanks.json == nil), (.alphaPattern, options.alphaPattern.isEmpty),
    ]
    where !isEmpty && !kind.method.hasPatterns {
      throw NibbleError.usage("\(setting): modules of \(kind.method.name) have no ranks or alphas of their own")
    }
    guard kind.method.takesStarts || options.start.isRandom else {
      throw NibbleError.usage("\(.initLora, options.start.rawValue) is a start of LoRA, and \(.method, options.method.rawValue) has its own")
    }
    /// What a layer's module is like; its rank without the ranks that it begins with and keeps.
    func module(_ layer: Linear) throws -> ModuleShape {
      let rank = try factors.rank(of: layer)
      let drawn: MethodSettings = kind.method.rankKey == nil ? [:] : [MethodSetting.rank: Double(rank)]
      let asked = try kind.method.settings.reduce(into: drawn) { settings, one in
        let own = try patterns.first { try $0.key == one.key && $0.pattern.isFound(in: layer.name) }?.value
        let isNamed = options.settingPatterns.contains { $0.key == one.key }
        settings[one.key] = own ?? (isNamed ? nil : parts.standard(one, layer)) ?? options.common(one)
      }
      if let reason = kind.method.contradiction(asked) ?? kind.method.untrained(asked) {
        throw NibbleError.usage("\(.method, options.method.rawValue): \(reason)")
      }
      let settings = kind.method.settled(asked, inputs: layer.inputs, outputs: layer.outputs)
      let shape = ModuleShape(
        input: [layer.inputs], outputs: layer.outputs, rank: kind.method.rankKey == nil ? 0 : rank, settings: settings)
      guard let reason = kind.method.refusal(of: shape) else { return shape }
      throw NibbleError(.adapterMismatch, "\(path: model.path): \(module: layer.name): \(reason)")
    }
    func isWhole(_ layer: Linear) -> Bool { options.modulesToSave.contains { ModuleChoice.is(layer.name, $0) } }
    let adapted = try layers.filter { try targets.contains($0.name, parts) }
    let own = adapted.filter { !isWhole($0) }
    try checkMemory(options, try own.map { kind.method.count(try module($0)) })
    let shared = shared(kind.method, options, own)
    let sources = try StartSources(options, on: model, own.map { ($0, try factors.rank(of: $0)) })
    for layer in adapted {
      stream += 1
      guard !isWhole(layer) else { continue }
      var shape = try module(layer)
      let asked = shape.rank
      shape.rank = sources.rank(of: layer, asked)
      guard shape.rank > 0 || asked == 0 else { continue }
      let scaling = sources.scaling(asked, now: shape.rank, isStabilized: kind.isRankStabilized)
      let scale = try scaling.factor * factors.scale(of: layer, rank: scaling.rank, kind)
      let random = CountedRandom(seed: options.seed, stream: stream)
      let new = NewModule(
        layer.matrix, rank: shape.rank, settings: shape.settings, scale: scale, options.start, random, model.engine,
        material: try sources.material(for: layer))
      let begun = kind.method.takesStarts ? try options.start.factors(new) : nil
      let path = AdapterFile.prefix + model.path(ofModule: layer.name)
      let kept = options.start.holdsWeight ? shape.rank : 0
      shape.rank += kept
      modules[layer.id] = TrainedModule(
        kind.method, shape, scale: scale, begun.map { [LoRA.first: $0.a, LoRA.second: $0.b] } ?? kind.method.start(new), shared: shared,
        frozen: kind.frozen, kept: kept
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

  /// What modules of these layers share.
  private func shared(_ method: any AdapterMethod.Type, _ options: AdapterOptions, _ layers: [Linear]) -> [String: TrainedTensor] {
    let own = method.parts.filter { $0.sharing != nil }
    guard !own.isEmpty else { return [:] }
    let settings = method.settings.reduce(into: MethodSettings()) { $0[$1.key] = options.common($1) }
    let inputs = layers.map(\.inputs).max() ?? 0, outputs = layers.map(\.outputs).max() ?? 0
    let numbers = method.shared(rank: options.rank, inputs: inputs, outputs: outputs, settings: settings)
    let shape = ModuleShape(input: [inputs], outputs: outputs, rank: options.rank, settings: settings)
    return own.reduce(into: [:]) { shared, part in
      guard let values = numbers[part.name] else { return }
      shared[part.name] = TrainedTensor(part.suffixes[0], part.shape(shape), FloatStore(values), isFrozen: true)
    }
  }

  /// Throws for ranks whose factors no memory holds, before any is made.
  ///
  /// - Parameter counts: numbers of each layer
  private func checkMemory(_ options: AdapterOptions, _ counts: [Int]) throws {
    // Values, gradients, two moments.
    let bytes = counts.reduce(0.0) { $0 + 16 * Double($1) }
    guard bytes <= Double(Machine.memory) else {
      throw NibbleError.usage(
        "\(.loraRank, options.rank): the factors and what trains them take \(decimal(bytes / 1e9, 1)) GB, this machine has \(byteText(Machine.memory))"
      )
    }
  }

  /// Throws for patterns of ranks and alphas that decide nothing.
  func checkPatterns(_ options: AdapterOptions, on model: Model) throws {
    // A start may leave nothing to layers that a pattern is for.
    guard !options.start.spreadsRanks else { return }
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

extension NetworkParts {
  /// What a setting of modules is for a layer where nobody says it.
  fileprivate func standard(_ setting: MethodSetting, _ layer: Linear) -> Double? {
    guard case .modules(.endOfMLP) = setting.kind else { return nil }
    return mlp.contains { $0.id == layer.id } && layer.inputs > layer.outputs ? 1 : 0
  }
}
