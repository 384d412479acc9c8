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
  /// Modules that `targets` names and that are left as they are: names divided by commas, or a pattern for whole paths.
  public var excluded: String?
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
  /// Rows that are trained without the others of their table.
  public var tokenRows: [TokenRows] = []
  /// Layers of the base, one after another in the model that is trained; empty for the base as it is.
  public var layerReplication: [Range<Int>] = []
  /// Keys of `adapter_config.json` that ask for more parts of each module: `lora_bias`.
  public var flags: Set<String> = []
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

  /// Rows of a table, or of a head.
  public struct TokenRows: Sendable {
    /// The module, by the last parts of its path; nil for the embedding of tokens, with a head that shares its weight.
    public var module: String?
    /// In the order in which the adapter has them.
    public var tokens: [Int]

    public init(module: String? = nil, _ tokens: [Int]) { (self.module, self.tokens) = (module, tokens) }
  }

  /// Trains rows of a table beside those it has already.
  ///
  /// - Parameter module: nil for the embedding of tokens
  public mutating func trainRows(_ tokens: [Int], of module: String? = nil) {
    if let index = tokenRows.firstIndex(where: { $0.module == module }) {
      tokenRows[index].tokens += tokens
    } else {
      tokenRows.append(TokenRows(module: module, tokens))
    }
  }

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
    var all = json
    if !tokenRows.isEmpty { all = all.setting("token_rows", to: .array(tokenRows.map { [JSON($0.module ?? ""), JSON($0.tokens)] })) }
    if let excluded { all = all.setting("exclude_modules", to: JSON(excluded)) }
    if !layerReplication.isEmpty { all = all.setting("layer_replication", to: replicationJSON) }
    if !flags.isEmpty { all = all.setting("flags", to: JSON(flags.sorted())) }
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

  /// `layer_replication` as PEFT writes it.
  var replicationJSON: JSON { .array(layerReplication.map { [JSON($0.lowerBound), JSON($0.upperBound)] }) }

  /// The number that modules without a pattern of their own have.
  package func common(_ setting: MethodSetting) -> Double? { settings[setting.key] ?? setting.standard }
}

extension Trained {
  /// Factors for the modules that `options` name, as they begin.
  ///
  /// - Throws: `.usage` for targets that match nothing
  package init(_ options: AdapterOptions, on model: Model) throws {
    guard let kind = options.method.adapter else { return }
    let parts = model.network.parts, places = try options.places(kind.method, on: model)
    let factors = try LayerFactors(options, parts)
    let patterns = try options.settingPatterns.map { (key: $0.key, pattern: try Pattern($0.pattern), value: $0.value) }
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
    guard options.layerReplication.isEmpty || kind.method.keys.contains("layer_replication") else {
      throw NibbleError.usage("\(.layerReplication) does not go with \(kind.method.name), in PEFT either")
    }
    guard kind.method.takesStarts || options.start.isRandom else {
      throw NibbleError.usage("\(.initLora, options.start.rawValue) is a start of LoRA, and \(.method, options.method.rawValue) has its own")
    }
    /// What a module is like; its rank without the ranks that it begins with and keeps.
    func module(_ place: AdaptablePlace) throws -> ModuleShape {
      let rank = try factors.rank(of: place.name)
      let drawn: MethodSettings = kind.method.rankKey == nil ? [:] : [MethodSetting.rank: Double(rank)]
      let asked = try kind.method.settings.reduce(into: drawn) { settings, one in
        let own = try patterns.first { try $0.key == one.key && $0.pattern.isFound(in: place.name) }?.value
        let isNamed = options.settingPatterns.contains { $0.key == one.key }
        settings[one.key] = own ?? (isNamed ? nil : parts.standard(one, place)) ?? options.common(one)
      }
      if let reason = kind.method.contradiction(asked) ?? kind.method.untrained(asked) {
        throw NibbleError.usage("\(.method, options.method.rawValue): \(reason)")
      }
      let settings = kind.method.settled(asked, inputs: place.inputs, outputs: place.outputs)
      let shape = ModuleShape(
        place.kind, input: place.input, outputs: place.outputs, rank: kind.method.rankKey == nil ? 0 : rank, settings: settings)
      guard let reason = kind.method.refusal(of: shape) else { return shape }
      throw NibbleError(.adapterMismatch, "\(path: model.path): \(module: place.name): \(reason)")
    }
    func isWhole(_ place: AdaptablePlace) -> Bool { options.modulesToSave.contains { ModuleChoice.is(place.name, $0) } }
    let adapted = places.filter { !isWhole($0) }
    try checkFlags(options, kind.method, adapted)
    try checkMemory(options, try adapted.map { kind.method.count(try module($0)) })
    let shared = shared(kind.method, options, adapted)
    // As in PEFT the factors of embeddings have one start.
    let sources = try StartSources(options, on: model, try adapted.filter { $0.kind != .embedding }.map { ($0, try factors.rank(of: $0.name)) })
    for (index, place) in places.enumerated() where !isWhole(place) {
      var shape = try module(place)
      let asked = shape.rank
      shape.rank = sources.rank(of: place, asked)
      guard shape.rank > 0 || asked == 0 else { continue }
      let scaling = sources.scaling(asked, now: shape.rank, isStabilized: kind.isRankStabilized)
      let scale = try scaling.factor * factors.scale(of: place.name, rank: scaling.rank, kind)
      let random = CountedRandom(seed: options.seed, stream: UInt64(index + 1)), takesStart = kind.method.takesStarts && place.kind != .embedding
      let new = NewModule(
        place.matrix, kind: place.kind, rank: shape.rank, settings: shape.settings, scale: scale, options.start, random, model.engine,
        material: takesStart ? try sources.material(for: place) : .init())
      let begun = takesStart ? try options.start.factors(new) : nil
      let path = AdapterFile.prefix + model.path(ofModule: place.name)
      let kept = begun != nil && options.start.holdsWeight ? shape.rank : 0
      shape.rank += kept
      var numbers = begun.map { [LoRA.first: $0.a, LoRA.second: $0.b] } ?? kind.method.start(new)
      for part in kind.method.parts where part.flag.map(options.flags.contains) == true {
        numbers[part.name] = [Float](repeating: 0, count: elementCount(of: part.shape(shape)) ?? 0)
      }
      let own = TrainedModule(kind.method, shape, scale: scale, numbers, shared: shared, frozen: kind.frozen, kept: kept) { path + $0.suffix(shape) }
      if place.kind == .embedding { tables[place.id] = own } else { modules[place.id] = own }
    }
    guard !modules.isEmpty || !tables.isEmpty || options.rank == 0 else {
      throw NibbleError.usage("\(.modulesToSave) leaves no module of \(.targetModules, quoted(options.targets)) to adapt")
    }
    try addWholeModules(options.modulesToSave, model)
    if options.keepsTied { shareTied(model) }
    shareScorer(model)
    guard options.tokenRows.isEmpty || kind.method.kind == LoRA.kind || !kind.method.isInPEFT else {
      throw NibbleError.usage("\(.trainableTokenIndices): PEFT has rows of tokens beside LoRA's methods, not beside \(kind.method.name)")
    }
    try addTokenRows(options.tokenRows, model)
    try checkSplitTable(of: model)
    guard options.bias != .none else { return }
    // Stacked experts have no bias of a module: PEFT trains theirs with all others only.
    let stacked = model.stackedLayers
    for layer in model.linears where options.bias == .all || modules[layer.id] != nil && !stacked.contains(layer.id) { addBias(of: layer, model) }
    if options.bias == .all { addHeadBias(model) }
  }

  /// Throws for parts that the method or one of the modules does not have.
  private func checkFlags(_ options: AdapterOptions, _ method: any AdapterMethod.Type, _ places: [AdaptablePlace]) throws {
    guard let flag = options.flags.sorted().first else { return }
    guard options.flags.allSatisfy({ flag in method.parts.contains { $0.flag == flag } }) else {
      throw NibbleError.usage("\(.loraBias): \(method.name) has no \(flag)")
    }
    guard let table = places.first(where: { $0.kind == .embedding }) else { return }
    throw NibbleError.usage("\(.loraBias): \(quoted(table.name)) is an embedding, whose factors have no bias")
  }

  /// What modules of these layers share.
  private func shared(_ method: any AdapterMethod.Type, _ options: AdapterOptions, _ layers: [AdaptablePlace]) -> [String: TrainedTensor] {
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
    let names =
      model.linears.filter { modules[$0.id] != nil }.map(\.name) + model.embeddings.filter { tables[$0.id] != nil }.map(\.name)
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
  /// What a setting of modules is for a module where nobody says it.
  fileprivate func standard(_ setting: MethodSetting, _ place: AdaptablePlace) -> Double? {
    guard case .modules(.endOfMLP) = setting.kind else { return nil }
    return mlp.contains { $0.id == place.id } && place.inputs > place.outputs ? 1 : 0
  }
}
