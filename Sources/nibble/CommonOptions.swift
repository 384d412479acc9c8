import ArgumentParser
import NibbleCore
import NibbleFormats

/// Flags of every verb.
struct CommonOptions: ParsableArguments {
  @Flag(name: .long, help: "Print one JSON document on standard output.")
  var json = false

  @Flag(name: .shortAndLong, help: "Print no progress and no warnings.")
  var quiet = false

  @Flag(name: .shortAndLong, help: "Print more: each tensor, peak memory, content identity.")
  var verbose = false

  @Option(name: [.customShort("j", allowingJoined: true), .long], help: "Number of threads (default: all cores).")
  var threads: Int?

  /// Taken out of the words before they are parsed; here for `--help`.
  @Option(help: ArgumentHelp("Read options from a YAML file of 'option: value' lines; options on the command line override it.", valueName: "file.yaml"))
  var config: String?

  func validate() throws {
    if let threads, !(1...1024).contains(threads) { throw ValidationError("--threads must be from 1 to 1024") }
  }

  var workers: Int { threads ?? availableCores }

  /// - Parameter unit: what is counted; nil for bytes
  func progress(_ label: String, unit: String? = nil) -> (Int, Int) -> Void {
    let bar = Progress(label, unit: unit, quiet: quiet)
    return { bar.update($0, $1) }
  }

  /// Warns of those of these flags that are given and have no effect.
  func warnIgnored(_ flags: [String], _ reason: String) {
    let given = Arguments.given(flags)
    if !given.isEmpty { warn([Warning(.unused, "\(given.joined(separator: ", ")): ignored, \(reason)")]) }
  }

  func warn(_ warnings: [Warning]) {
    Progress.clear()
    guard !quiet else { return }
    for warning in warnings { write("nibble: warning: \(warning.line)\n", to: 2) }
  }
}

/// Flags of every verb that writes.
struct WriteOptions: ParsableArguments {
  @Option(name: .shortAndLong, help: "The file or folder to write.")
  var output: String?

  @Flag(help: "Replace an existing output.")
  var force = false

  @Flag(
    help:
      "Keep a journal, so that the same command continues after an interruption.")
  var resume = false

  @Flag(help: "Print what would be written, and write nothing.")
  var dryRun = false

  @Option(help: ArgumentHelp("Use at most this much memory, such as 300MB.", valueName: "bytes"))
  var maxMemory: String?

  @Option(help: ArgumentHelp("Largest size of a shard, in a folder of safetensors or GGUF files.", valueName: "bytes"))
  var maxShardSize = "5GB"

  func validate() throws {
    if output == nil, !dryRun { throw ValidationError("Missing expected argument '--output <output>'") }
    if output == "" { throw ValidationError("--output is empty") }
    if let maxMemory, parseBytes(maxMemory) == nil {
      throw ValidationError("--max-memory '\(maxMemory)' is not a size such as 300MB")
    }
    guard let size = parseBytes(maxShardSize), size > 0 else {
      throw ValidationError("--max-shard-size '\(maxShardSize)' is not a size such as 5GB")
    }
  }

  func spec(_ format: OutputFormat?, orElse other: OutputFormat, gguf: GgufOptions = GgufOptions()) throws -> OutputSpec {
    // A plan needs no output: the empty path is never taken.
    var spec = try OutputSpec(path: output ?? "", format: format, default: other)
    spec.gguf = gguf
    try spec.checkOptions()
    if spec.format.choosesTypes, spec.isSingleFile, !Arguments.given(["--max-shard-size"]).isEmpty {
      throw NibbleError.usage("--max-shard-size splits a folder of GGUF files; \(spec.path) is one file")
    }
    spec.force = force
    spec.maximumShard = parseBytes(maxShardSize) ?? spec.maximumShard
    return spec
  }

  /// Runs `job`, or prints its plan.
  ///
  /// - Parameters:
  ///   - planned: further lines of a plan
  ///   - extra: further lines of the summary, made when the job is done
  func run(
    _ job: StreamJob, _ common: CommonOptions, verb: String, allowNonfinite: Bool = false, planned: Summary.Extra = .init(),
    extra: (StreamReport) throws -> Summary.Extra = { _ in Summary.Extra() }
  ) throws {
    var job = job
    job.threads = common.workers
    job.maximumMemory = maxMemory.flatMap(parseBytes)
    job.allowsNonfinite = allowNonfinite
    job.resumes = resume
    if dryRun {
      if output != nil { try job.check(isPlan: true) }
      common.warn(job.warnings + (output == nil ? [] : job.obstacles))
      return try Summary.printPlan(job, json: common.json, verb: verb, verbose: common.verbose, extra: planned)
    }
    let report = try job.run(progress: common.progress(verb))
    Progress.clear()
    common.warn(report.warnings)
    try Summary.printReport(report, job, json: common.json, verb: verb, verbose: common.verbose, extra: try extra(report))
  }
}

extension OutputFormat: ExpressibleByArgument {}
