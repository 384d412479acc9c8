import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats

struct DiffCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "diff",
    abstract: "Compare two checkpoints or two adapters: tensors added, removed, changed, and by how much.",
    discussion: """
      Errors are relative to A: relative RMS is ‖B − A‖ / ‖A‖, SQNR its inverse in decibels. For adapters, the change that each module \
      makes to the base is compared, because different factors may make the same change.
      """)

  @Argument(help: "The checkpoint or adapter to compare with.") var a: String
  @Argument(help: "The other one.") var b: String
  @OptionGroup var common: CommonOptions

  func run() throws {
    guard AdapterFile.isAdapter(a) == AdapterFile.isAdapter(b) else {
      let (adapter, other) = AdapterFile.isAdapter(a) ? (a, b) : (b, a)
      throw NibbleError.usage("\(adapter) is an adapter, \(other) is none; diff compares two of a kind")
    }
    guard AdapterFile.isAdapter(a) else { return try compare(try Checkpoint.open(a), try Checkpoint.open(b)) }
    let (first, second) = (try AdapterFile.open(a), try AdapterFile.open(b))
    try compare(first.mapped.checkpoint, second.mapped.checkpoint, try AdapterDifference(first, second))
  }

  private func compare(_ first: Checkpoint, _ second: Checkpoint, _ adapters: AdapterDifference? = nil) throws {
    let report = try first.diff(second, threads: common.workers, progress: common.progress("diff"))
    Progress.clear()
    common.warn(first.warnings + second.warnings)
    if common.json { return try StandardOutput.print(document(report, adapters)) }
    try StandardOutput.print(
      "\(report.unchanged) unchanged, \(report.changed.count) changed, \(report.added.count) added, \(report.removed.count) removed"
    )
    if let adapters { try print(adapters) }
    try print(report, leavingOut: adapters.map { Set($0.factorNames) } ?? [])
  }

  private func document(_ report: DiffReport, _ adapters: AdapterDifference?) -> JSON {
    let document: JSON = [
      "a": JSON(a), "b": JSON(b), "added": JSON(report.added), "removed": JSON(report.removed),
      "unchanged": JSON(report.unchanged),
      "changed": .array(
        report.changed.map { changed in
          let difference = changed.difference
          return [
            "name": JSON(changed.name), "shape_a": JSON(changed.a.logicalShape), "shape_b": JSON(changed.b.logicalShape),
            "a": JSON(Summary.coding(changed.a.encoding, changed.a.dtype)),
            "b": JSON(Summary.coding(changed.b.encoding, changed.b.dtype)),
            "equal_values": difference.map { JSON.bool($0.unequal == 0) } ?? .null,
            "relative_rms": difference.map { JSON($0.relativeRMS) } ?? .null,
            "max_error": difference.map { JSON($0.maxDifference) } ?? .null,
            "max_a": difference.map { JSON($0.maxA) } ?? .null,
            "sqnr_db": difference.map { JSON($0.sqnr) } ?? .null,
            "unequal": difference.map { JSON($0.unequal) } ?? .null,
            "nonfinite": difference.map { JSON($0.nonfinite) } ?? .null,
          ]
        }),
    ]
    guard let adapters else { return document }
    return document.setting(
      "modules",
      to: .array(
        adapters.modules.map {
          ["name": JSON($0.path), "norm_a": JSON($0.normA), "norm_b": JSON($0.normB), "relative_change": JSON($0.distance)]
        }))
  }

  private func print(_ adapters: AdapterDifference) throws {
    for group in common.verbose ? adapters.modules.map({ [$0] }) : Listing.groups(adapters.modules, \.path) {
      guard let worst = group.max(by: { $0.distance < $1.distance }) else { continue }
      let distance = group.count == 1 ? Summary.percent(worst.distance) : "at most \(Summary.percent(worst.distance))"
      try StandardOutput.print("~ \(Listing.name(group.map(\.path))): the changes differ by \(distance) of A's change")
    }
  }

  private func print(_ report: DiffReport, leavingOut names: Set<String>) throws {
    func list(_ mark: String, _ names: [String]) throws {
      for group in common.verbose ? Listing.natural(names, { $0 }).map({ [$0] }) : Listing.groups(names, { $0 }) {
        try StandardOutput.print("\(mark) \(Listing.name(group))")
      }
    }
    try list("-", report.removed)
    try list("+", report.added)
    let changed = report.changed.filter { !names.contains($0.name) }
    let groups = Listing.groups(changed, \.name) { "\(Self.coding($0)) \($0.difference.map { "\($0.unequal == 0)" } ?? Self.shapes($0))" }
    for group in common.verbose ? Listing.natural(changed, \.name).map({ [$0] }) : groups {
      try StandardOutput.print("~ \(Listing.name(group.map(\.name))): \(Self.coding(group[0])): \(Self.text(group))")
    }
  }

  private static func coding(_ changed: DiffReport.Changed) -> String {
    let (from, to) = (
      Summary.coding(changed.a.encoding, changed.a.dtype), Summary.coding(changed.b.encoding, changed.b.dtype)
    )
    return from == to ? from : "\(from) → \(to)"
  }

  private static func shapes(_ changed: DiffReport.Changed) -> String {
    "\(changed.a.logicalShape) → \(changed.b.logicalShape)"
  }

  /// How tensors of one group differ: the worst of each figure.
  private static func text(_ group: [DiffReport.Changed]) -> String {
    let changed = group[0]
    if changed.a.logicalShape != changed.b.logicalShape { return "shape \(shapes(changed))" }
    let differences = group.compactMap(\.difference)
    guard !differences.isEmpty else { return "bytes differ" }
    if differences.allSatisfy({ $0.unequal == 0 }) { return "equal values" }
    func worst(_ values: [Double]) -> Double { values.contains(where: \.isNaN) ? .nan : values.max() ?? 0 }
    let nonfinite = differences.reduce(0) { $0 + $1.nonfinite }
    let (rms, greatest) = (worst(differences.map(\.relativeRMS)), worst(differences.map(\.maxDifference)))
    let sqnr = differences.map(\.sqnr).min() ?? .nan
    return (group.count > 1 ? "at worst " : "")
      + "relative RMS \(Summary.scientific(rms)), max \(Summary.scientific(greatest)), SQNR \(decimal(sqnr, 1)) dB"
      + (nonfinite > 0 ? ", \(nonfinite) NaN or infinite" : "")
  }
}
