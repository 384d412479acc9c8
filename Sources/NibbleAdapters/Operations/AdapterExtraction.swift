import NibbleCompute
import NibbleCore
import NibbleFormats

/// What was trained into a model, taken out again as an adapter: of each matrix that changed the best factors of a rank, by random
/// projection; everything else that changed, whole.
public struct AdapterExtraction: Sendable {
  /// What becomes of parameters that differ and have no factors: norms, biases, embeddings, heads.
  public enum Others: String, Sendable, CaseIterable {
    /// They are in the adapter whole.
    case save
    /// Skipped, and counted in the report.
    case leave
    /// The extraction is refused.
    case refuse
  }

  /// How to extract.
  public struct Options: Sendable {
    /// Of every module, as far as its matrix has use for it, or the most it may get where `energy` is given.
    public var rank: Int
    /// The share of ‖Δ‖² each module keeps, with the least rank that does.
    public var energy: Double?
    /// `all-linear`, names divided by commas, or a pattern for whole paths.
    public var targets = "all-linear"
    public var others = Others.save
    /// The least share of ‖Δ‖² a module may keep.
    public var minimumEnergy = 0.0
    /// Of the random projections.
    public var seed: UInt64 = 0
    public var threads = availableCores

    public init(rank: Int) { self.rank = rank }
  }

  private let pair: TunedPair
  private let options: Options

  /// - Throws: `.usage` for options that make no sense, `.adapterMismatch` for models of different shapes
  public init(base: Checkpoint, tuned: Checkpoint, _ options: Options) throws {
    guard (1...1 << 16).contains(options.rank) else { throw NibbleError.usage("\(.rank, options.rank) is no rank") }
    try checkShare(options.energy, .energy)
    if options.minimumEnergy != 0 { try checkShare(options.minimumEnergy, .minEnergy) }
    pair = try TunedPair(base: base, tuned: tuned, targets: options.targets)
    self.options = options
  }

  /// Writes the folder `path`.
  ///
  /// - Throws: `.quality` for modules below `minimumEnergy`, and with `refuse` for parameters that have no factors
  @discardableResult
  public func write(to path: String, force: Bool, progress: @escaping (Int, Int) -> Void = { _, _ in }) throws
    -> FactoringReport
  {
    try StreamJob.checkIsNone(of: pair.base.files + pair.tuned.files, path)
    try AdapterFolder.check(path, force: force)
    let (folder, report) = try made(progress)
    try folder.write(to: path, force: force)
    return report
  }

  /// What would come out. Nothing is written.
  public func report(progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> FactoringReport { try made(progress).report }

  private func made(_ progress: @escaping (Int, Int) -> Void) throws -> (folder: AdapterFolder, report: FactoringReport) {
    let found = try pair.compared(options.threads) { progress($0, 2 * $1) }
    var report = FactoringReport(warnings: found.warnings)
    try report.take(found.others, options.others)
    guard !found.matrices.isEmpty else {
      throw NibbleError.usage("\(path: pair.tuned.path): no matrix that takes factors differs from \(pair.base.path)'s")
    }
    let team = Team(threads: options.threads)
    let total = found.matrices.reduce(0) { $0 + $1.tuned.count }
    var done = 0
    var modules: [FactoredModule] = []
    for one in found.matrices {
      let (module, account) = try factored(one, team, &report)
      modules.append(module)
      report.modules.append(account)
      done += one.tuned.count
      progress(total + done, 2 * total)
    }
    let poor = report.modules.filter { !($0.energy >= options.minimumEnergy) }
    if let worst = poor.min(by: { !$1.energy.isNaN && !($0.energy >= $1.energy) }) {
      throw NibbleError.quality(
        "\(poor.count) of \(report.modules.count) modules keep less than \(.minEnergy, options.minimumEnergy) of their change at rank \(worst.rank); "
          + "the worst, \(subject: worst.path), keeps \(decimal(worst.energy, 4, apartFrom: options.minimumEnergy))")
    }
    try pair.base.checkUnchanged()
    try pair.tuned.checkUnchanged()
    let whole = options.others == .save ? found.others : []
    let base = try pair.base.claimedIdentity ?? pair.base.hash(threads: options.threads)
    let saved = pair.saved(whole, beside: modules)
    let folder = AdapterFolder(
      modules, carried: try saved.tensors(), config: pair.config(modules, saved),
      binding: AdapterBinding(to: pair.base, identity: base))
    return (folder, report)
  }

  /// The best factors for the change of one matrix.
  private func factored(_ one: TunedPair.Matrix, _ team: Team, _ report: inout FactoringReport) throws -> (
    FactoredModule, FactoringReport.Module
  ) {
    try Interrupt.check()
    let change = try ChangedMatrix(from: one.base, to: one.tuned, isInputsFirst: one.isInputsFirst)
    let random = CountedRandom(seed: options.seed, stream: XXH3.digest64(of: Array(one.path.utf8)))
    // A matrix has no use for more.
    let most = min(options.rank, change.rows, change.columns)
    let search = try RandomizedFactors(
      change.values, rows: change.rows, columns: change.columns, squaredNorm: change.squaredNorm, rank: most, random, team)
    let found = change.rowsAreOutputs ? search.found : search.found.transposed
    let rank = options.energy.map { found.rank(keeping: $0, limit: most, total: change.squaredNorm) } ?? most
    let module = FactoredModule(
      path: one.path, method: LoRA.self,
      ModuleShape(one.isEmbedding ? .embedding : .linear, input: [found.inputs], outputs: found.outputs),
      factors: found.factors(rank: rank))
    if let gain = search.lastGain { report.lastGain = max(report.lastGain ?? 0, gain) }
    let missing = change.squaredDistance(to: module.factors, team)
    let account = FactoringReport.Module(
      path: one.path, outputs: found.outputs, inputs: found.inputs, rank: rank, norm: change.squaredNorm.squareRoot(),
      error: change.squaredNorm == 0 ? 0 : (missing / change.squaredNorm).squareRoot())
    return (module, account)
  }
}

extension FactoringReport {
  /// Takes note of parameters that differ and have no factors.
  fileprivate mutating func take(_ others: [TunedPair.Other], _ choice: AdapterExtraction.Others) throws {
    let all = others.map { (name: $0.name, count: $0.tuned.count, change: $0.change) }
    switch choice {
    case .save: whole = all
    case .leave: left = all
    case .refuse:
      guard let first = all.max(by: { $0.change ?? .infinity < $1.change ?? .infinity }) else { return }
      throw NibbleError.quality(
        "\(all.count) parameters differ that take no factors, most of all \(subject: first.name), \(FactoringReport.distance(first.change)); "
          + "\(.others, "save") keeps them whole, \(.others, "leave") leaves them behind")
    }
  }
}
