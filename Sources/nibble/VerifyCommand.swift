import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats

struct VerifyCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "verify",
    abstract: "Check every byte: structure, checksums, index against shards, NaN and infinities.",
    discussion: "All paths are checked; the exit code is that of the first failure.")

  @Argument(help: "Checkpoints, adapters or patches.") var paths: [String]
  @OptionGroup var common: CommonOptions

  @Flag(help: "Allow NaN and infinite values, which otherwise stop with exit code 6.")
  var allowNonfinite = false

  func run() throws { try Paths.each(paths, common) { try verify($0) } }

  private func verify(_ path: String) throws -> Paths.Result {
    let started = monotonicSeconds()
    if PatchFile.isPatch(path) {
      let patch = try PatchFile(path)
      try patch.verify(threads: common.workers, progress: common.progress("verify"))
      Progress.clear()
      return PatchSummary.result(patch.report, path, verb: "verify", common)
    }
    // An adapter is checked as one, with its configuration.
    let checkpoint =
      AdapterFile.isAdapter(path) ? try AdapterFile.open(path).mapped.checkpoint : try Checkpoint.open(path)
    let report = try checkpoint.verify(threads: common.workers, progress: common.progress("verify"))
    Progress.clear()
    common.warn(report.warnings)
    let count = report.nonfinite.reduce(0) { $0 + $1.count }
    let seconds = monotonicSeconds() - started
    let document: JSON = [
      "path": JSON(path), "ok": JSON.bool(allowNonfinite || report.nonfinite.isEmpty), "tensors": JSON(report.tensors),
      "bytes": JSON(report.bytes), "identity": JSON(report.identity.description),
      "nonfinite": .array(report.nonfinite.map { ["name": JSON($0.name), "count": JSON($0.count)] }),
      "warnings": JSON(report.warnings), "seconds": JSON(seconds),
    ]
    if let first = report.nonfinite.first, !allowNonfinite {
      return .init(
        document: document, rows: [],
        failure: NibbleError.quality(
          "\(path): \(count) NaN or infinite values in \(report.nonfinite.count) tensors, first in \(quoted(first.name)) "
            + "(\(first.count)); --allow-nonfinite passes them"))
    }
    var rows = [
      ("verified", "\(oneLine(path)): every byte of \(report.tensors) tensors, \(byteText(report.bytes)), \(decimal(seconds, 2)) s")
    ]
    if count > 0 { rows.append(("NaN or infinite", "\(count) values")) }
    return .init(document: document, rows: rows + [("identity", report.identity.description)])
  }
}

struct HashCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "hash",
    abstract: "Print the content identity: the same for one file, any sharding and any container.")

  @Argument(help: "Checkpoints or adapters.") var paths: [String]
  @OptionGroup var common: CommonOptions

  func run() throws {
    try Paths.each(paths, common) { path in
      let checkpoint =
        AdapterFile.isAdapter(path) ? try AdapterFile.open(path).mapped.checkpoint : try Checkpoint.open(path)
      let identity = try checkpoint.hash(threads: common.workers, progress: common.progress("hash"))
      Progress.clear()
      common.warn(checkpoint.warnings)
      return .init(
        document: ["path": JSON(path), "identity": JSON(identity.description), "tensors": JSON(checkpoint.tensors.count)],
        rows: [(identity.description, oneLine(path))])
    }
  }
}

/// Verbs that do the same with each of several paths.
enum Paths {
  struct Result {
    let document: JSON
    let rows: [(String, String)]
    /// Why the path does not pass.
    var failure: NibbleError?
  }

  /// Does `body` with each path, failures and all, and prints what it finds.
  ///
  /// - Throws: the first failure, after the others have been printed
  static func each(_ paths: [String], _ common: CommonOptions, _ body: (String) throws -> Result) throws {
    var failures: [NibbleError] = []
    var documents: [JSON] = []
    for path in paths {
      do {
        let result = try body(path)
        documents.append(result.document)
        if !common.json { try Summary.printRows(result.rows) }
        if let failure = result.failure { failures.append(failure) }
      } catch let error as NibbleError where error.kind != .interrupted {
        Progress.clear()
        failures.append(error)
        if paths.count > 1 { documents.append(["path": JSON(path), "ok": false, "error": JSON(error.message)]) }
      }
    }
    if common.json, !documents.isEmpty { try StandardOutput.print(paths.count == 1 ? documents[0] : ["results": .array(documents)]) }
    try StandardOutput.flush()
    for failure in failures.dropFirst() { write("nibble: error: \(failure.message)\n", to: 2) }
    if let first = failures.first { throw first }
  }
}
