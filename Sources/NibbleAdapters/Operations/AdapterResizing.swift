import NibbleCore
import NibbleFormats

/// An adapter with factors of another rank: the best there are of that rank, by the singular values of each change.
public struct AdapterResizing: Sendable {
  private let file: AdapterFile
  private let rank: Int?
  private let energy: Double?

  /// - Parameters:
  ///   - rank: what every module gets, or the most it may get where `energy` is given
  ///   - energy: the share of ‖Δ‖² each module keeps, with the least rank that does
  /// - Throws: `.usage` for ranks and shares that are none
  public init(_ file: AdapterFile, rank: Int? = nil, energy: Double? = nil) throws {
    guard rank != nil || energy != nil else { throw NibbleError.usage("which rank? Give \(.rank) or \(.energy)") }
    try file.checkHasNoParameters("are not resized")
    if let odd = file.modules.first(where: { $0.rank == 0 }) {
      throw NibbleError.usage("\(path: file.path) is a \(odd.method.name) adapter, which has no factors to resize")
    }
    let most = file.modules.map { min($0.shape.inputs ?? 0, $0.shape.outputs ?? 0) }.max() ?? 0
    if let rank, rank < 1 || rank > max(most, file.modules.map(\.rank).max() ?? 0) {
      throw NibbleError.usage("\(.rank, rank): no module of \(path: file.path) has use for it; the largest takes \(most)")
    }
    try checkShare(energy, .energy)
    (self.file, self.rank, self.energy) = (file, rank, energy)
  }

  /// Writes the folder `path`.
  @discardableResult
  public func write(to path: String, force: Bool) throws -> FactoringReport {
    try StreamJob.checkIsNone(of: file.mapped.checkpoint.files, path)
    try AdapterFolder.check(path, force: force)
    let (folder, report) = try made()
    try folder.write(to: path, force: force)
    return report
  }

  /// What would come out. Nothing is written.
  public func report() throws -> FactoringReport { try made().report }

  private func made() throws -> (folder: AdapterFolder, report: FactoringReport) {
    var report = FactoringReport(warnings: file.warnings)
    var modules: [FactoredModule] = []
    for own in file.modules {
      try Interrupt.check()
      var module = try FactoredModule(own, of: file)
      let found = try SingularFactors([module.factors])
      let new = energy.map { found.rank(keeping: $0, limit: rank ?? own.rank) } ?? rank ?? own.rank
      // The scale goes into the factors, and so into what it is for beside them.
      module.scaleExtras(own.scale)
      module.factors = found.factors(rank: new)
      try module.checkFinite()
      guard found.norm == 0 || module.factors.b.contains(where: { $0 != 0 }) else {
        throw NibbleError.quality(
          "\(path: file.path): \(module: own.path): its change is too small for float32: its new factors would be zeros")
      }
      report.modules.append(
        .init(
          path: own.path, outputs: module.outputs, inputs: module.inputs, oldRank: own.rank, rank: new, norm: found.norm,
          error: found.norm == 0 ? 0 : found.distance(to: module.factors) / found.norm))
      modules.append(module)
    }
    let method = file.config.method
    if method.scalesOutputs {
      let kept = method.extras.map(\.name).joined(separator: ", ")
      report.warnings.append(
        .init(
          .precision,
          "\(path: file.path) is a \(method.name) adapter: \(kept) stays as it is, and errors are those of the factors before outputs are scaled"
        ))
    }
    let factored = Set(file.modules.flatMap { $0.tensors.map(\.name) })
    let others = file.mapped.checkpoint.tensors.filter { !factored.contains($0.name) }
    report.whole = file.replacements.map { ($0.name, $0.tensor.count, nil) }
    report.whole += file.tokenRows.map { ("\($0.path), \($0.tokens.count) rows", $0.values.count, nil) }
    let folder = AdapterFolder(
      modules, carried: others.map { .init($0.name.text, copying: $0) }, config: file.config.plain, binding: file.binding)
    return (folder, report)
  }
}

/// Throws unless `share` is above 0 and at most 1.
func checkShare(_ share: Double?, _ setting: Setting) throws {
  guard let share else { return }
  guard share > 0, share <= 1 else { throw NibbleError.usage("\(setting, share) is no share: above 0, at most 1") }
}
