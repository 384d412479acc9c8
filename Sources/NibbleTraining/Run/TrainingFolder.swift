import Glibc
import NibbleAdapters
import NibbleCore

/// The folder a run writes into: metrics as they come, the adapter when it is done.
public final class TrainingFolder {
  private let path: String
  private let metrics: UnsafeMutablePointer<FILE>

  /// - Throws: `.usage` for an existing output without `force`, `.cannotWrite`
  public init(_ path: String, force: Bool) throws {
    var path = path
    while path.count > 1, path.hasSuffix("/") { path.removeLast() }
    self.path = path
    if PathKind(path) == .folder {
      let names = try namesInFolder(path)
      guard force || names.isEmpty else { throw NibbleError.usage("\(path) exists; --force replaces it") }
      if let stranger = names.first(where: { !Self.isOurs($0) }) {
        throw NibbleError.usage("\(path) holds \(quoted(stranger)), which this command would not write")
      }
      for name in names { unlink(path + "/" + name) }
    } else {
      guard PathKind(path) == .nothing else { throw NibbleError.usage("\(path) exists and is no folder") }
      guard mkdir(path, 0o777) == 0 else { throw NibbleError.cannotWrite("\(path): cannot be created: \(errorText(errno))") }
    }
    guard let file = fopen(path + "/metrics.jsonl", "we") else {
      throw NibbleError.cannotWrite("\(path)/metrics.jsonl: \(errorText(errno))")
    }
    metrics = file
  }

  deinit { fclose(metrics) }

  private static func isOurs(_ name: String) -> Bool {
    ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.yaml", "README.md", "loss.svg"].contains(name)
  }

  /// One more line of `metrics.jsonl`.
  public func append(_ row: JSON) throws {
    guard fputs(row.text() + "\n", metrics) >= 0, fflush(metrics) == 0 else {
      throw NibbleError.cannotWrite("\(path)/metrics.jsonl: \(errorText(errno))")
    }
  }

  /// The adapter's two files, each whole or not at all.
  package func write(_ adapter: AdapterFolder) throws { try adapter.write(filesInto: path) }
}
