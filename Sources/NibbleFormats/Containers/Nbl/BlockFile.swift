import NibbleCore
import NibbleQuant

/// The block file as an output: one file that holds everything, to be used in place.
struct BlockFile: Container {
  let name = "nbl"
  let endings = [".nbl"]
  let isAlwaysOneFile = true
  let holdsCodes = true
  let compresses = true

  func check(_ job: StreamJob) throws {
    if let foreign = job.items.first(where: { $0.target.encoding.kind.isForeign }) {
      throw NibbleError.usage(
        "\(tensor: foreign.target.name.text): block files hold no \(foreign.target.encoding.name); dequantize, or quantize anew")
    }
    guard job.output.compression.isOn else { return }
    let tears = job.items.contains {
      !$0.target.encoding.codec.fillsFrames && $0.source.encoding != $0.target.encoding || $0.change != nil
    }
    guard !tears, job.changing.whenLost != .promote, job.changing.whenLost != .shape else {
      throw NibbleError.usage(
        "\(.compress) does not go with int8, nor with merging; write the file and convert it with \(.compress)")
    }
  }

  func takes(_ encoding: WeightEncoding, beside others: [WeightEncoding]) -> Bool { !encoding.kind.isForeign }

  func size(_ job: StreamJob, _ provenance: JSON?) -> OutputSize {
    let targets = job.items.map(\.target)
    let table = NblWriter.emptyTable(
      targets, job.source.smallFiles, metadata: job.source.metadata, provenance: provenance, origin: job.origin)
    return OutputSize(bytes: NblWriter.size(of: table, targets), isExact: !job.output.compression.isOn)
  }

  func openBytes(_ job: StreamJob) -> Int { OutputFile.windowSize }

  func writer(_ job: StreamJob, _ staged: StagedOutput, _ provenance: JSON?, size: Int) throws -> any CheckpointWriter {
    try NblWriter(
      staged, job.items.map(\.target), job.source.smallFiles, metadata: job.source.metadata, provenance: provenance,
      origin: job.origin, compression: job.output.compression, expectedSize: size)
  }
}
