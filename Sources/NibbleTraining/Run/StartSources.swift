import NibbleAdapters
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// What the factors of a model's layers begin by, beside their weights: what they take on a text, or what they were packed from.
struct StartSources {
  private let options: AdapterOptions
  private let engine: Engine
  private var spread: SpreadRanks?
  /// By name, of the model as it was.
  private var originals: [String: Matrix] = [:]
  private var path = ""

  /// - Parameter ranks: of the layers that are adapted, as they are asked for
  /// - Throws: `.usage` for what a start needs and has not, or has and does not need; `.adapterMismatch` for statistics or an original of another
  ///   model; `.badInput` for broken statistics
  init(_ options: AdapterOptions, on model: Model, _ ranks: [(layer: AdaptablePlace, rank: Int)]) throws {
    (self.options, engine) = (options, model.engine)
    let (start, word) = (options.start, options.start.rawValue)
    guard start.need == .statistics || options.statistics == nil else { throw NibbleError.usage("\(.initLora, word) goes by no statistics; leave out \(.statistics)") }
    guard start.need == .original || options.original == nil else { throw NibbleError.usage("\(.initLora, word) goes by no original; leave out \(.original)") }
    if start.need == .original { try take(options.original, model, ranks.map(\.layer)) }
    guard start.need == .statistics else { return }
    guard let statistics = options.statistics else {
      throw NibbleError.usage("\(.initLora, word) goes by what layers take; name the file that 'nibble calibrate' writes with \(.statistics)")
    }
    try statistics.check(model.checkpoint, threads: engine.team.threads)
    path = statistics.path
    for (layer, _) in ranks where statistics.owner(of: layer.name) == nil {
      throw NibbleError(.adapterMismatch, "\(path: path): nothing of \(module: layer.name), which is adapted")
    }
    guard start.spreadsRanks else { return }
    spread = try SpreadRanks(ranks, rho: number(FactorStart.rho), statistics, seed: options.seed, engine.team)
  }

  private mutating func take(_ original: Checkpoint?, _ model: Model, _ layers: [AdaptablePlace]) throws {
    guard let original else {
      throw NibbleError.usage(
        "\(.initLora, options.start.rawValue) makes up for what packing took; name the model that \(path: model.path) was packed from with \(.original)")
    }
    guard !model.checkpoint.packed.isEmpty else {
      throw NibbleError.usage("\(.initLora, options.start.rawValue) makes up for what packing took, and \(path: model.path) is not packed")
    }
    let source = model.checkpoint.provenance?["source"]?.string.flatMap { Digest128(hex: $0) }
    guard try source == nil || source == original.claimedIdentity ?? original.hash(threads: engine.team.threads) else {
      throw NibbleError(.adapterMismatch, "\(path: original.path) is not what \(path: model.path) was packed from")
    }
    let own = try Model(original, precision: .f32, team: engine.team)
    originals = Dictionary(own.linears.map { ($0.name, $0.matrix) }, uniquingKeysWith: { first, _ in first })
    for layer in layers {
      guard let found = originals[layer.name], found.inputs == layer.inputs, found.outputs == layer.outputs else {
        throw NibbleError(.adapterMismatch, "\(path: original.path): \(module: layer.name) is missing or has another shape than in \(path: model.path)")
      }
    }
    originals = originals.filter { name, _ in model.checkpoint.tensor(called: name + ".weight")?.isPacked == true }
  }

  private func number(_ setting: MethodSetting) -> Double { options.startSettings[setting.key] ?? setting.standard ?? 0 }

  /// The rank of a layer for which `rank` was asked; 0 for a layer that is not to be adapted.
  func rank(of layer: AdaptablePlace, _ rank: Int) -> Int { spread?.ranks[layer.id] ?? rank }

  /// What the rank of a layer that is now `rank` counts as in its scale, and what that is multiplied with.
  func scaling(_ asked: Int, now rank: Int, isStabilized: Bool) -> (rank: Int, factor: Double) {
    guard spread != nil, rank != asked, number(FactorStart.keepsScale) == 1 else { return (rank, 1) }
    // PEFT multiplies alpha with rank / asked.
    return (asked, isStabilized ? (Double(rank) / Double(asked)).squareRoot() : 1)
  }

  func material(for layer: AdaptablePlace) throws -> StartMaterial {
    var material = StartMaterial()
    (material.settings, material.original, material.directions) = (options.startSettings, originals[layer.name], spread?.directions[layer.id])
    guard options.start.need == .statistics, spread == nil else { return material }
    material.inputs = try options.statistics?.moments(layer)
    return material
  }
}

/// As many ranks as all layers were to have together, given to those directions of all layers' inputs that explain the greatest share of a
/// layer's variance (EVA, arXiv:2410.07170; ties go to the earlier layer).
private struct SpreadRanks {
  private(set) var ranks: [ParameterID: Int] = [:]
  private(set) var directions: [ParameterID: InputDirections] = [:]

  /// - Parameter rho: how many times its own rank a layer may get at most
  init(_ layers: [(layer: AdaptablePlace, rank: Int)], rho: Double, _ statistics: StatisticsFile, seed: UInt64, _ team: Team) throws {
    // Layers that take the same may all have as many as any of them.
    var most: [String: Int] = [:]
    for (layer, rank) in layers {
      let owner = statistics.owner(of: layer.name) ?? layer.name
      most[owner] = max(most[owner] ?? 0, min(Int((Double(rank) * rho).rounded(.toNearestOrEven)), layer.inputs))
    }
    var found: [String: InputDirections] = [:]
    var shares: [(share: Double, id: ParameterID)] = []
    for (layer, _) in layers {
      try Interrupt.check()
      let owner = statistics.owner(of: layer.name) ?? layer.name
      if found[owner] == nil, let moments = try statistics.moments(layer) {
        let random = CountedRandom(seed: seed, stream: XXH3.digest64(of: Array(owner.utf8)))
        found[owner] = try InputDirections(moments, count: most[owner] ?? 0, random, team)
      }
      guard let own = found[owner] else { continue }
      (directions[layer.id], ranks[layer.id]) = (own, 0)
      shares += own.shares.map { ($0, layer.id) }
    }
    let order = shares.indices.sorted { (-shares[$0].share, $0) < (-shares[$1].share, $1) }
    for index in order.prefix(layers.reduce(0) { $0 + $1.rank }) { ranks[shares[index].id, default: 0] += 1 }
  }
}

extension StatisticsFile {
  fileprivate func moments(_ layer: AdaptablePlace) throws -> InputMoments? {
    try inputs(of: layer.name, count: layer.inputs).map { InputMoments(second: $0.second, mean: $0.mean, inputs: layer.inputs) }
  }
}
