import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Read every byte and check structure, checksums, index against shards, NaN and infinities.")

  @Argument(help: "The checkpoint, or a patch.") var path: String
  @OptionGroup var common: CommonOptions

  @Flag(help: "Do not stop at NaN or infinite values.")
  var allowNonfinite = false

  func run() throws {
    let started = monotonicSeconds()
    if PatchFile.isPatch(path) {
      let patch = try PatchFile(path)
      try patch.verify(threads: common.workers, progress: common.progress("verify"))
      Progress.clear()
      return try PatchSummary.print(patch.report, path, verb: "verify", common)
    }
    let checkpoint = try Checkpoint.open(path)
    let report = try checkpoint.verify(threads: common.workers, progress: common.progress("verify"))
    Progress.clear()
    common.warn(report.warnings)
    let count = report.nonfinite.reduce(0) { $0 + $1.count }
    if common.json {
      try StandardOutput.print([
        "path": JSON(path), "ok": JSON.bool(allowNonfinite || report.nonfinite.isEmpty), "tensors": JSON(report.tensors),
        "bytes": JSON(report.bytes), "identity": JSON(report.identity.description),
        "nonfinite": .array(report.nonfinite.map { ["name": JSON($0.name), "count": JSON($0.count)] }),
        "warnings": JSON(report.warnings), "seconds": JSON(monotonicSeconds() - started),
      ])
      try StandardOutput.flush()
    }
    if let first = report.nonfinite.first, !allowNonfinite {
      throw NibbleError.quality(
        "\(path: path): \(count) NaN or infinite values in \(report.nonfinite.count) tensors, first in \(quoted(first.name)) "
          + "(\(first.count)); --allow-nonfinite passes them")
    }
    if !common.json {
      try Summary.printRows([
        ("verified", "\(path): \(report.tensors) tensors, \(byteText(report.bytes))"),
        ("time", "\(decimal(monotonicSeconds() - started, 2)) s"),
        ("identity", report.identity.description),
      ])
    }
  }
}

struct HashCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hash",
    abstract: "Print the content identity: the same for one file, any sharding and any container.")

  @Argument(help: "The checkpoint.") var path: String
  @OptionGroup var common: CommonOptions

  func run() throws {
    let checkpoint = try Checkpoint.open(path)
    let identity = try checkpoint.hash(threads: common.workers, progress: common.progress("hash"))
    Progress.clear()
    common.warn(checkpoint.warnings)
    if common.json {
      try StandardOutput.print([
        "path": JSON(path), "identity": JSON(identity.description), "tensors": JSON(checkpoint.tensors.count),
      ])
    } else {
      try StandardOutput.print("\(identity)  \(oneLine(path))")
    }
  }
}

struct DiffCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "diff",
    abstract: "Compare two checkpoints: tensors added, removed, changed, and by how much.",
    discussion: "Errors are relative to A: relative RMS is ‖B − A‖ / ‖A‖, SQNR its inverse in decibels.")

  @Argument(help: "The checkpoint compared with.") var a: String
  @Argument(help: "The other one.") var b: String
  @OptionGroup var common: CommonOptions

  func run() throws {
    let first = try Checkpoint.open(a)
    let second = try Checkpoint.open(b)
    let report = try first.diff(second, threads: common.workers, progress: common.progress("diff"))
    Progress.clear()
    common.warn(first.warnings + second.warnings)
    try common.json ? printJSON(report) : printText(report)
  }

  private func printJSON(_ report: DiffReport) throws {
    try StandardOutput.print([
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
    ])
  }

  private func printText(_ report: DiffReport) throws {
    for name in report.removed { try StandardOutput.print("- \(oneLine(name))") }
    for name in report.added { try StandardOutput.print("+ \(oneLine(name))") }
    for changed in report.changed {
      let coding =
        "\(Summary.coding(changed.a.encoding, changed.a.dtype)) → \(Summary.coding(changed.b.encoding, changed.b.dtype))"
      let what: String
      if changed.a.logicalShape != changed.b.logicalShape {
        what = "shape \(changed.a.logicalShape) → \(changed.b.logicalShape)"
      } else if let difference = changed.difference {
        let nonfinite = difference.nonfinite > 0 ? ", \(difference.nonfinite) NaN or infinite" : ""
        what =
          difference.unequal == 0
          ? "equal values"
          : "relative RMS \(Summary.scientific(difference.relativeRMS)), max \(Summary.scientific(difference.maxDifference)), SQNR \(decimal(difference.sqnr, 1)) dB\(nonfinite)"
      } else {
        what = "bytes differ"
      }
      try StandardOutput.print("~ \(oneLine(changed.name)): \(coding): \(what)")
    }
    try StandardOutput.print(
      "\(report.unchanged) unchanged, \(report.changed.count) changed, \(report.added.count) added, \(report.removed.count) removed"
    )
  }
}

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "List what is in a checkpoint, block file, adapter or patch.")

  @Argument(help: "The checkpoint, an adapter folder or a patch.") var path: String
  @OptionGroup var common: CommonOptions

  @Flag(help: "Read the values too: least, greatest, mean, deviation, zeros, NaN, infinities.")
  var stats = false

  func run() throws {
    if AdapterFile.isAdapter(path) {
      guard !stats else { throw NibbleError.usage("--stats is for checkpoints; \(path) is an adapter") }
      return try AdapterReport.print(path, base: nil, common)
    }
    if PatchFile.isPatch(path) {
      guard !stats else { throw NibbleError.usage("--stats is for checkpoints; \(path) is a patch") }
      return try PatchSummary.print(try PatchFile(path).report, path, verb: "inspect", common)
    }
    let checkpoint = try Checkpoint.open(path)
    let statistics = stats ? try checkpoint.statistics(threads: common.workers) : []
    common.warn(checkpoint.warnings)
    try common.json ? printJSON(checkpoint, statistics) : printText(checkpoint, statistics)
  }

  private func printJSON(_ checkpoint: Checkpoint, _ statistics: [TensorStatistics?]) throws {
    let tensors = checkpoint.tensors.enumerated().map { index, tensor -> JSON in
      var members: [(key: String, value: JSON)] = [
        ("name", JSON(tensor.name.text)), ("dtype", JSON(tensor.dtype.rawValue)), ("shape", JSON(tensor.logicalShape)),
        ("bytes", JSON(tensor.storedBytes)), ("codec", JSON(tensor.encoding.name)),
      ]
      members += tensor.encoding.description
      if tensor.isPacked { members.append(("transposed", .bool(tensor.isTransposed))) }
      if stats, let found = statistics[index] {
        members.append(
          (
            "stats",
            [
              "min": JSON(Double(found.minimum)), "max": JSON(Double(found.maximum)), "mean": JSON(found.mean),
              "std": JSON(found.standardDeviation), "zeros": JSON(found.zeros), "nan": JSON(found.nans),
              "inf": JSON(found.infinities),
            ]
          ))
      }
      return .object(members)
    }
    try StandardOutput.print([
      "path": JSON(path), "container": JSON(checkpoint.container.rawValue), "model_type": JSON(checkpoint.modelType),
      "bytes": JSON(checkpoint.storedBytes), "tensor_count": JSON(checkpoint.tensors.count),
      "packed_count": JSON(checkpoint.packed.count), "identity": JSON(checkpoint.claimedIdentity?.description),
      "provenance": checkpoint.provenance ?? .null,
      "metadata": .object(checkpoint.metadata.map { ($0.key, JSON($0.value)) }),
      "files": .array(checkpoint.smallFiles.map { ["name": JSON($0.name), "bytes": JSON($0.section.plainLength)] }),
      "warnings": JSON(checkpoint.warnings), "tensors": .array(tensors),
    ])
  }

  private func printText(_ checkpoint: Checkpoint, _ statistics: [TensorStatistics?]) throws {
    for (index, tensor) in checkpoint.tensors.enumerated() {
      var line = "\(oneLine(tensor.name.text)) \(tensor.logicalShape) \(Summary.coding(tensor.encoding, tensor.dtype))"
      if tensor.isTransposed { line += ", stored transposed" }
      if stats, let found = statistics[index] {
        line +=
          ": \(found.minimum)…\(found.maximum), mean \(Float(found.mean)), deviation \(Float(found.standardDeviation)), "
          + "\(found.zeros) zeros, \(found.nans) NaN, \(found.infinities) infinite"
      }
      try StandardOutput.print(line)
    }
    let weights = checkpoint.tensors.reduce(0) { $0 + $1.count }
    var rows: [(String, String)] = [
      ("container", checkpoint.container.rawValue + (checkpoint.modelType.map { ", \(oneLine($0))" } ?? "")),
      (
        "tensors",
        "\(checkpoint.tensors.count), \(checkpoint.packed.count) packed, \(weights) elements, \(byteText(checkpoint.storedBytes))"
      ),
    ]
    if !checkpoint.smallFiles.isEmpty { rows.append(("files", Summary.list(checkpoint.smallFiles.map(\.name)))) }
    if let identity = checkpoint.claimedIdentity { rows.append(("identity", identity.description)) }
    if let provenance = checkpoint.provenance { rows.append(("made by", oneLine(provenance.text(.python)))) }
    try Summary.printRows(rows)
  }
}
