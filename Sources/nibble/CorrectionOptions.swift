import ArgumentParser
import NibbleAdapters
import NibbleCalibration
import NibbleCore
import NibbleFormats

/// Flags of the adapter that is written beside calibrated codes.
struct CorrectionOptions: ParsableArguments {
  @Option(
    name: .customLong("correction"),
    help: ArgumentHelp(
      "Write a LoRA adapter of this rank too, which makes up for what the codes leave: with --encoder calibrated of the outputs, otherwise of the weights (LoftQ).",
      valueName: "rank"))
  var rank: Int?

  @Option(
    help: ArgumentHelp(
      "LoftQ: choose codes and the --correction in turn, so often (default: 1). The codes of more than one step serve only with the adapter.",
      valueName: "N"))
  var loftqIter: Int?

  @Option(
    name: .customLong("correction-output"),
    help: ArgumentHelp("Its folder (default: OUT without its ending, and '-correction').", valueName: "DIR"))
  var output: String?

  func validate() throws {
    if let rank, !(1...1 << 16).contains(rank) { throw ValidationError("--correction \(rank) is no rank") }
    if let loftqIter, !(1...1000).contains(loftqIter) { throw ValidationError("--loftq-iter \(loftqIter) is not from 1 to 1000") }
    if loftqIter != nil, rank == nil { throw ValidationError("--loftq-iter goes with --correction") }
    if output != nil, rank == nil { throw ValidationError("--correction-output goes with --correction") }
  }

  /// The folder, beside the packed model `path`.
  func folder(beside path: String) -> String {
    if let output { return output }
    let trimmed = path.hasSuffix("/") ? String(path.dropLast()) : path
    let end = [".nbl", ".safetensors"].first { trimmed.hasSuffix($0) }
    return String(trimmed.dropLast(end?.count ?? 0)) + "-correction"
  }

  /// Refuses a folder that is in the way, before minutes of work.
  func check(_ path: String?, force: Bool) throws {
    guard rank != nil, let path else { return }
    if folder(beside: path) == path { throw NibbleError.usage("--correction-output \(path) is the output itself") }
    try AdapterFolder.check(folder(beside: path), force: force)
  }

  /// Steps of LoftQ that change codes; nil for codes as they are without.
  var codingSteps: Int? { loftqIter.flatMap { $0 > 1 ? $0 : nil } }

  /// LoftQ's factors of a job without a text, and its codes.
  func apply(to job: inout StreamJob, in folder: String, _ common: CommonOptions) throws -> (Summary.Extra, [Correction]) {
    guard let rank else { return (Summary.Extra(), []) }
    let report = try job.loftq(rank: rank, steps: loftqIter ?? 1, progress: common.progress("loftq"))
    Progress.clear()
    guard !report.corrections.isEmpty else { throw NibbleError.usage("--correction: no linear layer is packed") }
    let numbers = report.corrections.reduce(0) { $0 + $1.a.count + $1.b.count }
    return (
      Summary.Extra(
        rows: [
          (
            "correction",
            "\(folder): \(report.corrections.count) layers, \(numbers) numbers, LoftQ, \(loftqIter ?? 1) "
              + (loftqIter ?? 1 > 1 ? "steps" : "step") + "; error of the weights mean \(Summary.scientific(report.after)), \(Summary.scientific(report.before)) rounded without it, \(decimal(report.seconds, 1)) s"
          )
        ],
        members: [
          (
            "correction",
            [
              "output": JSON(folder), "modules": JSON(report.corrections.count), "parameters": JSON(numbers), "loftq_iter": JSON(loftqIter ?? 1),
              "weight_error": JSON(report.after), "weight_error_rounded": JSON(report.before), "seconds": JSON(report.seconds),
            ]
          )
        ]), report.corrections
    )
  }

  /// Writes the adapter of the packed model at `path`.
  func write(_ corrections: [Correction], beside path: String, force: Bool, threads: Int) throws {
    let base = try Checkpoint.open(path)
    let factors = corrections.map { AdapterFolder.Factors(module: $0.module, a: $0.a, b: $0.b, rank: $0.rank) }
    try AdapterFolder(factors, of: base, threads: threads).write(to: folder(beside: path), force: force)
  }
}
