import NibbleCompute
import NibbleCore
import NibbleFormats

/// Everything a run needs to be resumed: `checkpoint-N` in its folder.
///
/// Rows, their order and random numbers follow from the step's number, so the trained numbers and the optimizer's moments are enough. A
/// checkpoint appears whole or not at all, its state synced before.
package struct RunCheckpoint {
  static let prefix = "checkpoint-"
  private static let stateName = "state.safetensors"
  private static let manifestName = "manifest.json"
  static let names: Set<String> = [stateName, manifestName]

  /// The folder's name.
  static func name(_ step: Int) -> String { prefix + "\(step)" }

  /// The step a folder's name says, nil for other names.
  static func step(_ name: String) -> Int? {
    guard name.hasPrefix(prefix) else { return nil }
    return Int(name.dropFirst(prefix.count))
  }

  /// Writes the optimizer's state.
  ///
  /// - Parameter identity: of everything that decides what the run computes
  static func save(_ optimizer: Optimizer, identity: Digest128, metrics: Int, to path: String) throws {
    let staged = try StagedOutput(path, .folder { names.contains($0) }, force: true)
    do {
      let parts = try optimizer.parts()
      let file = try TensorFile.Writer(parts.map { ($0.name, $0.dtype, [$0.count]) }, in: staged, stateName)
      let digest = XXH3()
      for part in parts {
        try file.add(UnsafeRawBufferPointer(part.bytes), to: part.name)
        digest.update(UnsafeRawBufferPointer(part.bytes))
      }
      try file.finish()
      update(digest, optimizer.steps, metrics, optimizer.numbers)
      let manifest: JSON = [
        "nibble": JSON(nibbleVersion), "step": JSON(optimizer.steps), "run": JSON(identity.description),
        "optimizer": JSON(optimizer.options.choice.description), "numbers": .array(optimizer.numbers.map { JSON($0) }),
        "state": JSON(digest.digest128.description), "metrics_bytes": JSON(metrics),
      ]
      let bytes = manifest.fileBytes
      let text = try staged.file(manifestName, expectedSize: bytes.count)
      try text.write(bytes, at: 0)
      try text.finish(length: bytes.count)
      try staged.publish()
    } catch {
      staged.discard()
      throw error
    }
  }

  private static func update(_ digest: XXH3, _ step: Int, _ metrics: Int, _ numbers: [Double]) {
    digest.update(Array("\(step) \(metrics)\(numbers.map { " \($0.bitPattern)" }.joined())".utf8))
  }

  /// Puts back what `save` wrote.
  ///
  /// - Returns: how long the metrics were then
  /// - Throws: `.usage` for another run's or another optimizer's checkpoint, `.badInput` and `.integrity` for broken ones
  static func restore(_ optimizer: Optimizer, identity: Digest128, from path: String) throws -> Int {
    let place = path + "/" + manifestName
    let file = try InputFile(place)
    guard file.size < 1 << 20, let manifest = try? JSON.parse(try file.bytes(at: 0, count: file.size)),
      let step = manifest["step"]?.int, let run = manifest["run"]?.string, let state = manifest["state"]?.string,
      let metrics = manifest["metrics_bytes"]?.int, step >= 0, metrics >= 0
    else { throw NibbleError.badInput("\(path: place): not a checkpoint's manifest") }
    let own = optimizer.options.choice.description, other = manifest["optimizer"]?.string
    guard other ?? own == own else {
      throw NibbleError.usage("\(path: path) is a checkpoint of \(.optimizer, other ?? ""), not of \(.optimizer, own)")
    }
    guard run == identity.description else {
      throw TrainingFolder.otherRun(path)
    }
    let numbers = manifest["numbers"]?.array?.compactMap(\.double) ?? []
    guard numbers.count == optimizer.numbers.count else {
      throw NibbleError.badInput("\(path: place): \(numbers.count) numbers of the optimizer, not \(optimizer.numbers.count)")
    }
    let stored = try TensorFile(path + "/" + stateName)
    let digest = XXH3()
    for part in try optimizer.parts() {
      guard let tensor = stored.tensor(part.name), tensor.dtype == part.dtype, tensor.count == part.count else {
        throw NibbleError.badInput("\(path: "\(path)/\(stateName)"): \(subject: part.name) is missing, or has another type or size")
      }
      part.bytes.copyBytes(from: try stored.bytes(tensor))
      digest.update(UnsafeRawBufferPointer(part.bytes))
    }
    update(digest, step, metrics, numbers)
    guard digest.digest128.description == state else {
      throw NibbleError.integrity("\(path: path): its numbers are not those that were saved")
    }
    optimizer.steps = step
    optimizer.numbers = numbers
    return metrics
  }
}
