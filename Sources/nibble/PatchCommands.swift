import ArgumentParser
import NibbleCore
import NibbleFormats

struct PatchCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "patch",
    abstract: "Write the differences between two block files.",
    discussion: "Two merges into the same base differ in few bytes; 'nibble swap' turns either into the other.")

  @Option(help: ArgumentHelp("A block file.", valueName: "A.nbl")) var from: String
  @Option(help: ArgumentHelp("The other one.", valueName: "B.nbl")) var to: String
  @OptionGroup var place: PatchOutput
  @OptionGroup var common: CommonOptions

  func run() throws {
    let output = try place.needed()
    var job = try PatchJob(from: try Checkpoint.open(from), to: try Checkpoint.open(to), output: output)
    job.force = place.force
    job.threads = common.workers
    if place.dryRun {
      try job.check(isPlan: true)
      common.warn(job.obstacle.map { [$0] } ?? [])
      return try PatchSummary.print(
        [("would write", output), ("from", from), ("to", to)],
        ["verb": "patch", "output": JSON(output), "from": JSON(from), "to": JSON(to), "dry_run": true], common)
    }
    let report = try job.run(progress: common.progress("patch"))
    Progress.clear()
    common.warn(PatchSummary.warnings(report))
    try PatchSummary.print(report, output, verb: "patch", common)
  }
}

struct SwapCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "swap",
    abstract: "Turn one of a patch's two block files into the other.",
    discussion: """
      Without --output the file itself is replaced by renaming. Processes that have the file open or mapped keep seeing the old \
      contents. Applying the patch twice restores the original, byte for byte.
      """)

  @Option(help: ArgumentHelp("The block file.", valueName: "F.nbl")) var file: String
  @Option(help: ArgumentHelp("The patch.", valueName: "TASK.patch")) var patch: String
  @OptionGroup var place: PatchOutput
  @OptionGroup var common: CommonOptions

  func run() throws {
    var job = try SwapJob(file, try PatchFile(patch), output: place.output)
    job.force = place.force
    try PatchSummary.run(job, verb: "swap", dryRun: place.dryRun, common)
  }
}

/// Where a patch or a swapped file goes.
struct PatchOutput: ParsableArguments {
  @Option(name: .shortAndLong, help: "The file to write.") var output: String?
  @Flag(help: "Replace an existing output.") var force = false
  @Flag(help: "Print what would be written, and write nothing.") var dryRun = false

  func validate() throws { if output == "" { throw ValidationError("--output is empty") } }

  func needed() throws -> String {
    guard let output else { throw NibbleError.usage("Missing expected argument '--output <output>'") }
    return output
  }
}

/// The summaries of patches and swaps.
enum PatchSummary {
  static func run(_ given: SwapJob, verb: String, dryRun: Bool, _ common: CommonOptions) throws {
    var job = given
    job.threads = common.workers
    let (identity, bytes) = job.result
    if dryRun {
      try job.check(isPlan: true)
      common.warn(job.obstacle.map { [$0] } ?? [])
      return try print(
        [("would write", "\(job.output), \(byteText(bytes))"), ("identity", identity.description)],
        [
          "verb": JSON(verb), "output": JSON(job.output), "bytes_out": JSON(bytes), "identity": JSON(identity.description),
          "dry_run": true,
        ], common)
    }
    let report = try job.run(progress: common.progress(verb))
    Progress.clear()
    common.warn(report.warnings)
    try print(
      [
        ("output", job.output), ("bytes", byteText(report.bytes)), ("changed", "\(report.changes) sections"),
        ("time", "\(decimal(report.seconds, 2)) s"), ("was", report.from.description), ("identity", report.to.description),
      ],
      [
        "verb": JSON(verb), "output": JSON(job.output), "bytes_out": JSON(report.bytes), "changed_sections": JSON(report.changes),
        "source_identity": JSON(report.from.description), "identity": JSON(report.to.description),
        "seconds": JSON(report.seconds), "peak_memory": JSON(ResourceUse.now.peakBytes), "warnings": JSON(report.warnings),
      ], common)
  }

  static func warnings(_ report: PatchReport) -> [Warning] {
    var warnings: [Warning] = []
    if report.isEmpty {
      warnings.append(.init(.unused, "the two files hold the same bytes in every section; only their tables can differ"))
    }
    if report.isCompressed {
      warnings.append(
        .init(
          .data,
          "sections are compressed, and compressed bytes differ throughout: the patch has \(byteText(report.bytes)); "
            + "unpack the files with 'nibble convert IN -o OUT.nbl' for a small one"))
    }
    return warnings
  }

  static func print(_ report: PatchReport, _ path: String, verb: String, _ common: CommonOptions) throws {
    let result = result(report, path, verb: verb, common)
    try print(result.rows, result.document, common)
  }

  static func result(_ report: PatchReport, _ path: String, verb: String, _ common: CommonOptions) -> Paths.Result {
    func side(_ side: PatchReport.Side) -> String { "\(side.identity), \(byteText(side.bytes))" }
    var rows: [(String, String)] = [
      (["patch": "output", "verify": "verified"][verb] ?? "patch", path), ("from", side(report.first)),
      ("to", side(report.second)),
      ("bytes", "\(byteText(report.bytes)), \(byteText(report.headBytes)) of them the tables"),
      ("changed", "\(report.changes.count) of \(report.sections) sections"),
    ]
    if verb == "patch" { rows.append(("time", "\(decimal(report.seconds, 2)) s")) }
    if common.verbose || verb == "inspect" {
      rows += report.changes.map { change in
        let bytes =
          change.first == change.second ? byteText(change.first) : "\(byteText(change.first)) → \(byteText(change.second))"
        return ("", "\(oneLine(change.name)), \(change.kind): \(bytes), \(byteText(change.stored)) here")
      }
    }
    func document(_ side: PatchReport.Side) -> JSON {
      ["identity": JSON(side.identity.description), "bytes": JSON(side.bytes), "provenance": side.provenance ?? .null]
    }
    var text: JSON = [
      "verb": JSON(verb), verb == "patch" ? "output" : "path": JSON(path), "container": "patch",
      "from": document(report.first),
      "to": document(report.second), "bytes": JSON(report.bytes), "table_bytes": JSON(report.headBytes),
      "sections": JSON(report.sections),
      "changed": .array(
        report.changes.map {
          [
            "name": JSON($0.name), "kind": JSON($0.kind), "from_bytes": JSON($0.first), "to_bytes": JSON($0.second),
            "bytes": JSON($0.stored),
          ]
        }),
      "warnings": JSON(warnings(report)), "seconds": JSON(report.seconds), "peak_memory": JSON(ResourceUse.now.peakBytes),
    ]
    if verb == "verify" { text = text.setting("ok", to: true) }
    return Paths.Result(document: text, rows: rows)
  }

  static func print(_ rows: [(String, String)], _ document: JSON, _ common: CommonOptions) throws {
    try common.json ? StandardOutput.print(document) : Summary.printRows(rows)
  }
}
