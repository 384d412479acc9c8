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
      "With --encoder calibrated: write a LoRA adapter of this rank too, which makes up for what the codes leave.", valueName: "rank"))
  var rank: Int?

  @Option(
    name: .customLong("correction-output"),
    help: ArgumentHelp("Its folder (default: OUT without its ending, and '-correction').", valueName: "DIR"))
  var output: String?

  func validate() throws {
    if let rank, !(1...1 << 16).contains(rank) { throw ValidationError("--correction \(rank) is no rank") }
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

  /// Writes the adapter of the packed model at `path`.
  func write(_ corrections: [Correction], beside path: String, force: Bool, threads: Int) throws {
    let base = try Checkpoint.open(path)
    let factors = corrections.map { AdapterFolder.Factors(module: $0.module, a: $0.a, b: $0.b, rank: $0.rank) }
    try AdapterFolder(factors, of: base, threads: threads).write(to: folder(beside: path), force: force)
  }
}
