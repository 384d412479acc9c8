import Glibc
import NibbleAdapters
import NibbleCore
import NibbleFormats

/// The folder a run writes into: metrics as they come, checkpoints, and the adapter or the model when it is done.
///
/// The result of an earlier run stays until the new one replaces it.
public final class TrainingFolder {
  /// What the folder may hold already.
  public enum Begin: Sendable {
    /// Nothing, or with `force` another run's files, which are replaced.
    case anew(force: Bool)
    /// A run that was interrupted; where there is nothing yet, a new one.
    case resume
  }

  let path: String
  private let begin: Begin
  private let isNew: Bool
  /// Whether there is a run to continue.
  public let continues: Bool
  private let lock: FolderLock
  private let metricsFile: Int32
  /// Bytes of `metrics.jsonl`.
  private var written = 0
  /// The step of the last checkpoint that was saved or restored.
  private(set) var savedStep = 0

  /// - Parameter isFull: for a run that leaves a model, not an adapter
  /// - Throws: `.usage` for an existing output without `force`, what is not ours, and a folder another run is writing into;
  ///   `.cannotWrite`
  public init(_ path: String, _ begin: Begin, isFull: Bool = false) throws {
    let path = path.withoutTrailingSlashes
    self.path = path
    isNew = PathKind(path) == .nothing
    let isEmpty = try isNew || PathKind(path) == .folder && namesInFolder(path).isEmpty
    switch begin {
    case .resume where !isEmpty: continues = true
    default: continues = false
    }
    self.begin = isEmpty ? .anew(force: false) : begin
    switch PathKind(path) {
    case .nothing:
      guard mkdir(path, 0o777) == 0 else {
        throw NibbleError.cannotWrite("\(path: path): cannot be created: \(errorText(errno))")
      }
    case .folder: break
    default: throw NibbleError.usage("\(path: path) exists and is no folder")
    }
    lock = try FolderLock(path)
    try Self.check(path, self.begin, isFull)
    metricsFile = open(path + "/metrics.jsonl", O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0o666)
    guard metricsFile >= 0 else { throw NibbleError.cannotWrite("\(path: path + "/metrics.jsonl"): \(errorText(errno))") }
  }

  deinit { close(metricsFile) }

  private static let record = "run.yaml"
  private static let files: Set = ["metrics.jsonl", record, "README.md", "loss.svg", "report.html"]
  private static let adapterFiles: Set = [
    "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja",
  ]

  /// Throws for files that no run writes, and for an existing run that is neither replaced nor resumed.
  private static func check(_ path: String, _ begin: Begin, _ isFull: Bool) throws {
    let names = try namesInFolder(path)
    for name in names where !isOurs(name, in: path, isFull) {
      throw NibbleError.usage("\(path: path) holds \(subject: name), which this command would not write there")
    }
    guard case .anew(let force) = begin, !force, !names.isEmpty else { return }
    throw NibbleError.usage("\(path: path) exists; \(.force) replaces it, \(.resume) continues it")
  }

  /// Links are never ours: their targets lie elsewhere.
  private static func isOurs(_ name: String, in path: String, _ isFull: Bool) -> Bool {
    var status = stat()
    guard lstat(path + "/" + name, &status) == 0 else { return false }
    switch status.st_mode & S_IFMT {
    case S_IFREG:
      let isResult = isFull ? ModelFileNames.isOurs(name) : adapterFiles.contains(name)
      return files.contains(name) || isResult || name.hasSuffix(".nibble-partial")
    case S_IFDIR:
      if name.hasSuffix(".nibble-partial") { return true }
      let inside = try? namesInFolder(path + "/" + name)
      return RunCheckpoint.step(name) != nil && inside?.allSatisfy(RunCheckpoint.names.contains) ?? false
    default: return false
    }
  }

  /// Begins, or resumes: of an earlier run's files only those stay that the new one replaces when it is done, and the options are written.
  ///
  /// - Parameters:
  ///   - options: as `run.yaml` has them
  ///   - record: what decides what the run computes
  /// - Throws: `.usage` where there is no run to resume, or another one
  func start(_ options: String, _ record: RunRecord) throws {
    let place = path + "/" + Self.record
    switch begin {
    case .anew:
      let isResult: (String) -> Bool = { Self.adapterFiles.contains($0) || ModelFileNames.isOurs($0) }
      for name in try namesInFolder(path) where !isResult(name) && name != "metrics.jsonl" {
        try Self.remove(path + "/" + name)
      }
      guard ftruncate(metricsFile, 0) == 0 else {
        throw NibbleError.cannotWrite("\(path: path + "/metrics.jsonl"): \(errorText(errno))")
      }
    case .resume: guard try checkContinues(record).isLonger else { return }
    }
    try TextFile.write(record.line + "\n" + options, to: place, force: true)
  }

  /// Compares `record` with that of the run in the folder.
  ///
  /// - Returns: whether it is of a longer run, and what to know about that
  func checkContinues(_ record: RunRecord) throws -> (isLonger: Bool, warnings: [Warning]) {
    let place = path + "/" + Self.record
    guard PathKind(place) == .file else { throw NibbleError.usage("\(path: path): holds no run to resume: there is no run.yaml") }
    let file = try InputFile(place)
    let text = String(decoding: try file.bytes(at: 0, count: min(file.size, 1 << 20)), as: UTF8.self)
    return try record.checkContinues(text, folder: path, file: place)
  }

  static func otherRun(_ path: String) -> NibbleError {
    .usage("\(path: path) is of another run than the folder's run.yaml; begin anew with \(.force)")
  }

  /// After a run that failed before its first checkpoint: what it made is removed, if nothing was there before.
  func discard() throws {
    guard isNew, try checkpoints().isEmpty else { return }
    for name in try namesInFolder(path) { try Self.remove(path + "/" + name) }
    rmdir(path)
  }

  /// Waits until the names in the folder are on the disk.
  func syncFolder() throws {
    guard lock.sync() else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing") }
  }

  /// A file or link, or a folder of ours with its files.
  static func remove(_ path: String) throws {
    var status = stat()
    guard lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      unlink(path)
      return
    }
    for name in try namesInFolder(path) { unlink(path + "/" + name) }
    rmdir(path)
  }

  /// One more line of `metrics.jsonl`.
  public func append(_ row: JSON) throws {
    let line = Array((row.text() + "\n").utf8)
    try writeAll(line, to: metricsFile, at: written, path + "/metrics.jsonl")
    written += line.count
  }

  /// The adapter's two files, each whole or not at all.
  package func write(_ adapter: AdapterFolder) throws { try adapter.write(filesInto: path) }

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
    guard fsync(metricsFile) == 0 else { throw NibbleError.cannotWrite("\(path: path + "/metrics.jsonl"): \(errorText(errno))") }
    try RunCheckpoint.save(run.optimizer, identity: identity, metrics: written, to: path + "/" + RunCheckpoint.name(run.done))
    savedStep = run.done
    for step in try checkpoints().dropLast(max(1, limit)) where step != best {
      try Self.remove(path + "/" + RunCheckpoint.name(step))
    }
  }

  /// Restores the state after `step`; the metrics stay.
  package func restore(_ run: TrainingRun, identity: Digest128, step: Int) throws {
    _ = try RunCheckpoint.restore(run.optimizer, identity: identity, from: path + "/" + RunCheckpoint.name(step))
  }

  /// Restores the last complete checkpoint, and cuts the metrics to it.
  ///
  /// - Returns: the step, 0 where there is no checkpoint
  package func restore(_ run: TrainingRun, identity: Digest128) throws -> Int {
    let all = try checkpoints()
    guard let last = all.last else {
      guard ftruncate(metricsFile, 0) == 0 else {
        throw NibbleError.cannotWrite("\(path: path + "/metrics.jsonl"): \(errorText(errno))")
      }
      return 0
    }
    do {
      written = try RunCheckpoint.restore(run.optimizer, identity: identity, from: path + "/" + RunCheckpoint.name(last))
    } catch let error as NibbleError where all.count > 1 && error.kind != .usage {
      throw NibbleError(error.kind, "\(error.text); without that folder \(.resume) continues from step \(all[all.count - 2])")
    }
    var status = stat()
    guard fstat(metricsFile, &status) == 0, Int(status.st_size) >= written, ftruncate(metricsFile, off_t(written)) == 0 else {
      throw NibbleError.integrity("\(path: path + "/metrics.jsonl") is shorter than it was at step \(last)")
    }
    savedStep = run.done
    return run.done
  }
}
