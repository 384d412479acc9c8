import NibbleCore
import NibbleFormats

/// Several adapters made into one, as PEFT's `add_weighted_adapter` does.
public struct AdapterCombination: Sendable {
  /// What combining did.
  public struct Report: Sendable {
    /// Modules of the result.
    public var modules = 0
    /// The rank of the result.
    public var rank = 0
    /// ‖result − Σ weight · Δ‖ / ‖Σ weight · Δ‖ of the worst module.
    public var worstError = 0.0
    /// Its path.
    public var worstModule = ""
    /// Things worth telling that stopped nothing.
    public var warnings: [Warning] = []
  }

  private let options: MergeOptions
  private let first: JSON
  private let binding: AdapterBinding?
  private var warnings: [Warning] = []
  /// Weights that are written as they are.
  private var carried: [AdapterFolder.Tensor] = []

  /// - Parameter anyBase: takes adapters of different bases together
  /// - Throws: `.usage` for adapters that cannot be combined, `.adapterMismatch` for adapters of different bases
  public init(_ options: MergeOptions, anyBase: Bool = false) throws {
    self.options = options
    guard let adapter = options.adapters.first?.adapter else { throw NibbleError.usage("there is no adapter to combine") }
    for one in options.adapters {
      try one.adapter.checkHasNoParameters("are not combined, in PEFT either")
      guard one.adapter.config.layerReplication == adapter.config.layerReplication else {
        throw NibbleError.usage(
          "\(path: adapter.path) and \(path: one.adapter.path) are for different orders of layers: \(key: "layer_replication") is not the same")
      }
      if let odd = one.adapter.modules.first(where: { !$0.isPlain }) {
        throw NibbleError.usage(
          "\(path: one.adapter.path) uses \(odd.beyondFactors), which no other adapter's factors can say; merge it instead")
      }
      if let rows = one.adapter.tokenRows.first {
        throw NibbleError.usage(
          "\(path: one.adapter.path) replaces rows of \(subject: rows.path), which are not combined with anything")
      }
      for (name, tensor) in one.adapter.replacements {
        // PEFT writes the weight of an adapted embedding beside its factors, though it was not trained.
        guard tensor.name.text.hasSuffix(".base_layer.weight") else {
          throw NibbleError.usage(
            "\(path: one.adapter.path) replaces \(subject: name) whole, which is not combined with anything")
        }
        let values = AdapterFolder.Tensor(tensor.name.text, tensor.shape, try one.adapter.mapped.floats(tensor))
        if let other = carried.first(where: { $0.name == values.name }), other.values != values.values {
          throw NibbleError.usage("\(path: one.adapter.path) has another \(subject: name) than the adapters before it")
        }
        if !carried.contains(where: { $0.name == values.name }) { carried.append(values) }
      }
    }
    let bound = options.adapters.filter { $0.adapter.binding != nil }
    let isOne = bound.count == options.adapters.count && bound.allSatisfy { $0.adapter.binding == adapter.binding }
    binding = isOne ? adapter.binding : nil
    if let other = bound.first(where: { $0.adapter.binding != bound[0].adapter.binding }), !anyBase {
      throw NibbleError(
        .adapterMismatch,
        "\(path: other.adapter.path) was trained on another base than \(bound[0].adapter.path); \(.anyBase) combines them all the same"
      )
    }
    let names = Set(options.adapters.compactMap(\.adapter.config.baseName))
    if names.count > 1 {
      warnings.append(
        .init(.identity, "the adapters name different bases: \(names.sorted().map(quoted).joined(separator: ", "))"))
    }
    first = adapter.config.plain
  }

  /// Combines and writes the folder `path`.
  @discardableResult
  public func write(to path: String, force: Bool) throws -> Report {
    try StreamJob.checkIsNone(of: options.adapters.flatMap { $0.adapter.mapped.checkpoint.files }, path)
    try AdapterFolder.check(path, force: force)
    let (folder, report) = try combined()
    try folder.write(to: path, force: force)
    return report
  }

  /// What would come out. Nothing is written.
  public func report() throws -> Report { try combined().report }

  /// The same into a folder that is not published yet.
  func write(into staged: StagedOutput) throws { try combined().folder.write(into: staged) }

  private func combined() throws -> (folder: AdapterFolder, report: Report) {
    var report = Report(warnings: warnings)
    var paths: [String: (parts: [Merging.Part], isEmbedding: Bool)] = [:]
    for one in options.adapters {
      for module in one.adapter.modules {
        paths[module.path, default: ([], module.isEmbedding)].parts.append(
          try .init(module, of: one.adapter, weight: one.weight))
      }
    }
    var made: [FactoredModule] = []
    for (path, found) in paths.sorted(by: { ByteName($0.key) < ByteName($1.key) }) {
      try Interrupt.check()
      var merging = Merging(parts: found.parts)
      let first = found.parts[0].module
      if let other = found.parts.first(where: {
        $0.module.shape.input != first.shape.input || $0.module.shape.outputs != first.shape.outputs
      }) {
        throw NibbleError(
          .adapterMismatch,
          "\(path: other.file.path): \(module: path) has factors of shapes \(other.module.shapes), \(found.parts[0].file.path) \(first.shapes)"
        )
      }
      merging.combination = try merging.combination(options, of: path)
      let error = try merging.combinationError()
      if !(error <= report.worstError) { (report.worstError, report.worstModule) = (error, path) }
      let module = FactoredModule(
        path: path, method: LoRA.self, first.shape, factors: try merging.factors().sideBySide)
      try module.checkFinite()
      made.append(module)
    }
    report.modules = made.count
    report.rank = made.map(\.factors.rank).max() ?? 0
    let folder = AdapterFolder(
      made.map { $0.padded(to: report.rank) }, carried: carried, config: config, binding: binding)
    return (folder, report)
  }

  /// The first adapter's, for the modules of all.
  private var config: JSON {
    let paths = Set(options.adapters.flatMap { $0.adapter.modules.map(\.path) })
    let changes: [(String, JSON)] = [
      ("target_modules", JSON(ShortTargets.union(of: options.adapters.map(\.adapter)) ?? paths.sorted())), ("exclude_modules", .null), ("layers_to_transform", .null),
      ("layers_pattern", .null),
    ]
    return changes.reduce(first) { $0.setting($1.0, to: $1.1) }
  }
}
