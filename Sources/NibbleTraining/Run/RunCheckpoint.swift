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
      let parts = optimizer.parts
      let file = try TensorFile.Writer(parts.map { ($0.name, [$0.values.count]) }, metadata: [], in: staged, stateName)
      let digest = XXH3()
      for part in parts {
        try file.add(UnsafeBufferPointer(part.values.values), to: part.name)
        digest.update(UnsafeRawBufferPointer(part.values.values))
      }
      try file.finish()
      update(digest, optimizer.steps, metrics)
      let manifest: JSON = [
        "nibble": JSON(nibbleVersion), "step": JSON(optimizer.steps), "run": JSON(identity.description),
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

  private static func update(_ digest: XXH3, _ step: Int, _ metrics: Int) {
    digest.update(Array("\(step) \(metrics)".utf8))
  }

  /// Puts back what `save` wrote.
  ///
  /// - Returns: how long the metrics were then
  /// - Throws: `.usage` for another run's checkpoint, `.badInput` and `.integrity` for broken ones
  static func restore(_ optimizer: Optimizer, identity: Digest128, from path: String) throws -> Int {
    let place = path + "/" + manifestName
    let file = try InputFile(place)
    guard file.size < 1 << 20, let manifest = try? JSON.parse(try file.bytes(at: 0, count: file.size)),
      let step = manifest["step"]?.int, let run = manifest["run"]?.string, let state = manifest["state"]?.string,
      let metrics = manifest["metrics_bytes"]?.int, step >= 0, metrics >= 0
    else { throw NibbleError.badInput("\(path: place): not a checkpoint's manifest") }
    guard run == identity.description else {
      throw TrainingFolder.otherRun(path)
    }
    let stored = try TensorFile(path + "/" + stateName)
    let digest = XXH3()
    for part in optimizer.parts {
      guard let tensor = stored.tensor(part.name), tensor.count == part.values.count else {
        throw NibbleError.badInput("\(path: "\(path)/\(stateName)"): \(subject: part.name) is missing or has another size")
      }
      _ = part.values.values.update(from: try stored.floats(tensor))
      digest.update(UnsafeRawBufferPointer(part.values.values))
    }
    update(digest, step, metrics)
    guard digest.digest128.description == state else {
      throw NibbleError.integrity("\(path: path): its numbers are not those that were saved")
    }
    optimizer.steps = step
    return metrics
  }
}

extension Optimizer {
  /// All numbers that a step changes, by name.
  fileprivate var parts: [(name: String, values: FloatStore)] {
    tensors.indices.flatMap { index -> [(String, FloatStore)] in
      let name = tensors[index].name
      return [("value/" + name, tensors[index].values)]
        + (first[index].count > 0 ? [("first/" + name, first[index])] : [])
        + (second[index].count > 0 ? [("second/" + name, second[index])] : [])
    } + more.map { ("rule/" + $0.name, $0.values) }
  }
}
