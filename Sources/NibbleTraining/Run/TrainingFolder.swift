import Glibc
import NibbleAdapters
import NibbleCore
import NibbleFormats

/// The folder a run writes into: metrics as they come, checkpoints, and the adapter when it is done.
public final class TrainingFolder {
  /// What may be there already.
  public enum Begin: Sendable {
    /// Nothing, or with `force` another run's files, which are removed.
    case anew(force: Bool)
    /// A run that was interrupted.
    case resume
  }

  private let path: String
  private let lock: Int32
  private let metricsFile: Int32
  /// Bytes of `metrics.jsonl`.
  private var written = 0

  /// - Throws: `.usage` for an existing output without `force`, what is not ours, and a folder another run is writing into;
  ///   `.cannotWrite`
  public init(_ path: String, _ begin: Begin) throws {
    var path = path
    while path.count > 1, path.hasSuffix("/") { path.removeLast() }
    self.path = path
    switch (PathKind(path), begin) {
    case (.nothing, .resume): throw NibbleError.usage("--resume: there is no \(path) to go on with")
    case (.nothing, .anew):
      guard mkdir(path, 0o777) == 0 else { throw NibbleError.cannotWrite("\(path): cannot be created: \(errorText(errno))") }
    case (.folder, _): break
    default: throw NibbleError.usage("\(path) exists and is no folder")
    }
    lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard lock >= 0 else { throw NibbleError.cannotWrite("\(path): \(errorText(errno))") }
    guard flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      close(lock)
      throw NibbleError.usage("\(path) is being written by another process")
    }
    do {
      try Self.clear(path, begin)
      metricsFile = open(path + "/metrics.jsonl", O_WRONLY | O_CREAT | O_CLOEXEC, 0o666)
      guard metricsFile >= 0 else { throw NibbleError.cannotWrite("\(path)/metrics.jsonl: \(errorText(errno))") }
    } catch {
      close(lock)
      throw error
    }
  }

  deinit {
    close(metricsFile)
    close(lock)
  }

  private static func isOurs(_ name: String) -> Bool {
    ["adapter_config.json", "adapter_model.safetensors", "metrics.jsonl", "run.yaml", "README.md", "loss.svg", "model"].contains(
      name)
      || RunCheckpoint.step(name) != nil || name.hasSuffix(".nibble-partial")
  }

  private static func clear(_ path: String, _ begin: Begin) throws {
    let names = try namesInFolder(path)
    if let stranger = names.first(where: { !isOurs($0) }) {
      throw NibbleError.usage("\(path) holds \(quoted(stranger)), which this command would not write")
    }
    guard case .anew(let force) = begin else { return }
    guard force || names.isEmpty else { throw NibbleError.usage("\(path) exists; --force replaces it, --resume goes on with it") }
    for name in names { try remove(path + "/" + name) }
  }

  private static func remove(_ path: String) throws {
    if PathKind(path) == .folder {
      for name in try namesInFolder(path) { unlink(path + "/" + name) }
      rmdir(path)
    } else {
      unlink(path)
    }
  }

  /// One more line of `metrics.jsonl`.
  public func append(_ row: JSON) throws {
    let line = Array((row.text() + "\n").utf8)
    var done = 0
    while done < line.count {
      let count = line[done...].withUnsafeBytes { pwrite(metricsFile, $0.baseAddress, $0.count, off_t(written + done)) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw NibbleError.cannotWrite("\(path)/metrics.jsonl: \(errorText(errno))") }
      done += count
    }
    written += line.count
  }

  /// The adapter's two files, each whole or not at all.
  package func write(_ adapter: AdapterFolder) throws { try adapter.write(filesInto: path) }

  /// The whole model, in a folder of its own.
  package func write(_ trained: Trained, of base: Checkpoint) throws {
    var spec = try OutputSpec(path: path + "/model", format: .safetensors, habit: .safetensors)
    spec.force = true
    _ = try trained.model(of: base, to: spec).run()
  }

  /// A text file, whole or not at all.
  public func write(_ name: String, _ text: String) throws { try TextFile.write(text, to: path + "/" + name, force: true) }

  /// The rows of `metrics.jsonl`.
  func metrics() throws -> [JSON] {
    var rows: [JSON] = []
    try JSONLines.forEach(path + "/metrics.jsonl") { row, _ in rows.append(row) }
    return rows
  }

  // MARK: Checkpoints

  private func checkpoints() throws -> [Int] { try namesInFolder(path).compactMap(RunCheckpoint.step).sorted() }

  /// Saves where the run is, then removes all but the last few.
  ///
  /// - Parameter best: a step whose checkpoint stays
  package func save(_ run: TrainingRun, identity: Digest128, keeping limit: Int, best: Int?) throws {
    guard fsync(metricsFile) == 0 else { throw NibbleError.cannotWrite("\(path)/metrics.jsonl: \(errorText(errno))") }
    try RunCheckpoint.save(run.optimizer, identity: identity, metrics: written, to: path + "/" + RunCheckpoint.name(run.done))
    for step in try checkpoints().dropLast(max(1, limit)) where step != best {
      try Self.remove(path + "/" + RunCheckpoint.name(step))
    }
  }

  /// Puts the run where it was after `step`; the metrics stay.
  package func restore(_ run: TrainingRun, identity: Digest128, step: Int) throws {
    _ = try RunCheckpoint.restore(run.optimizer, identity: identity, from: path + "/" + RunCheckpoint.name(step))
  }

  /// Puts the run where its last whole checkpoint was, and the metrics with it.
  ///
  /// - Returns: the step, 0 where there is no checkpoint
  package func restore(_ run: TrainingRun, identity: Digest128) throws -> Int {
    guard let last = try checkpoints().last else {
      ftruncate(metricsFile, 0)
      return 0
    }
    written = try RunCheckpoint.restore(run.optimizer, identity: identity, from: path + "/" + RunCheckpoint.name(last))
    var status = stat()
    guard fstat(metricsFile, &status) == 0, Int(status.st_size) >= written, ftruncate(metricsFile, off_t(written)) == 0 else {
      throw NibbleError.integrity("\(path)/metrics.jsonl is shorter than it was at step \(last)")
    }
    return run.done
  }
}
