import ArgumentParser
import NibbleAdapters
import NibbleCore
import NibbleFormats
import NibbleQuant

struct InspectCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "inspect", abstract: "List the contents of a checkpoint, block file, adapter or patch.")

  @Argument(help: "The checkpoint, an adapter (PEFT's folder or a GGUF file) or a patch.") var path: String
  @OptionGroup var common: CommonOptions

  @Flag(help: "Read the values too: minimum, maximum, mean, deviation, zeros, NaN, infinities.")
  var stats = false

  func run() throws {
    if AdapterFile.isAdapter(path) {
      guard !stats else { throw NibbleError.usage("--stats is for checkpoints; \(path) is an adapter") }
      return try AdapterReport.print(path, base: nil, common)
    }
    if GGUFAdapter.isOne(path) {
      guard !stats else { throw NibbleError.usage("--stats is for checkpoints; \(path) is an adapter") }
      return try AdapterReport.print(try GGUFAdapter(path), common)
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
      "provenance": checkpoint.provenance ?? .null, "base_name": JSON(checkpoint.origin?.name),
      "base_revision": JSON(checkpoint.origin?.revision),
      "metadata": .object(checkpoint.metadata.map { ($0.key, JSON($0.value)) }),
      "files": .array(checkpoint.smallFiles.map { ["name": JSON($0.name), "bytes": $0.knownLength.map { JSON($0) } ?? .null] }),
      "warnings": JSON(checkpoint.warnings), "tensors": .array(tensors),
    ])
  }

  private func printText(_ checkpoint: Checkpoint, _ statistics: [TensorStatistics?]) throws {
    let weights = checkpoint.tensors.reduce(0) { $0 + $1.count }
    try StandardOutput.print(
      "\(checkpoint.container.rawValue)\(checkpoint.modelType.map { ", \(oneLine($0))" } ?? ""): \(checkpoint.tensors.count) tensors, "
        + "\(checkpoint.packed.count) packed, \(weights) weights, \(byteText(checkpoint.storedBytes))")
    let tensors = checkpoint.tensors.enumerated().map { index, tensor in
      Listing.Entry(
        name: tensor.name.text,
        text: "\(tensor.logicalShape) \(Summary.coding(tensor.encoding, tensor.dtype))\(tensor.isTransposed ? ", stored transposed" : "")",
        detail: stats ? statistics[index].map(Self.text) : nil)
    }
    // Values differ from layer to layer, so that there is nothing to put together.
    try Listing.print(tensors, whole: stats || common.verbose)
    var rows: [(String, String)] = []
    if !checkpoint.smallFiles.isEmpty { rows.append(("files", Summary.list(checkpoint.smallFiles.map(\.name)))) }
    if let origin = checkpoint.origin { rows.append(("model", oneLine(origin.name + (origin.revision.map { "@" + $0 } ?? "")))) }
    if let identity = checkpoint.claimedIdentity { rows.append(("identity", identity.description)) }
    if let provenance = checkpoint.provenance { rows.append(("made by", oneLine(provenance.text(.python)))) }
    try Summary.printRows(rows)
  }

  private static func text(_ found: TensorStatistics) -> String {
    "\(found.minimum)…\(found.maximum), mean \(Float(found.mean)), deviation \(Float(found.standardDeviation)), "
      + "\(found.zeros) zeros, \(found.nans) NaN, \(found.infinities) infinite"
  }
}
