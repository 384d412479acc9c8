import NibbleCore
import NibbleFormats

/// A folder with a block file and, where merging would lose what the adapters taught, the base as it is in that file and one adapter
/// beside it.
public struct KeptBundle {
  /// What was written.
  public struct Result {
    /// The job that wrote `model.nbl`.
    public let job: StreamJob
    public let report: StreamReport
    /// Tensors that rounding would have robbed of their change; empty if all was merged.
    public let lost: [String]
  }

  /// The block file's name.
  public static let modelName = "model.nbl"
  private static let names: Set<String> = [modelName, "adapter_config.json", "adapter_model.safetensors", "README.md"]

  private let base: Checkpoint
  private let options: MergeOptions
  private let path: String
  private let force: Bool

  /// - Parameter output: the folder to write
  /// - Throws: `.usage` for outputs that are no folder for a block file
  public init(_ base: Checkpoint, _ options: MergeOptions, to output: OutputSpec) throws {
    func fail(_ why: MessageText) -> NibbleError {
      .usage("\(.whenLost, "keep") writes a folder that holds \(Self.modelName) and the adapter; \(why)")
    }
    guard output.format == .nbl else { throw fail("leave out \(.format, output.format.rawValue)") }
    guard !output.path.lowercased().hasSuffix(".nbl") else { throw fail("\(path: output.path) is the name of a block file") }
    (self.base, self.options, path, force) = (base, options, output.path, output.force)
    for one in options.adapters { try base.checkAttachable(one.adapter) }
  }

  /// - Parameter prepare: sets what the job of the block file still needs
  public func write(check: MergeCheck?, _ prepare: (inout StreamJob) -> Void, progress: @escaping (Int, Int) -> Void) throws
    -> Result
  {
    let staged = try StagedOutput(path, .folder { Self.names.contains($0) }, force: force)
    do {
      let inner = try OutputSpec(path: staged.staging + "/" + Self.modelName, format: .nbl, default: .nbl)
      var job = try StreamJob.merge(base, options, to: inner, check: check)
      prepare(&job)
      try job.checkIsNoInput(path)
      let lost = try job.lost()
      if !lost.isEmpty {
        let merge = job
        job = try StreamJob.unmerged(base, options, to: inner)
        prepare(&job)
        job.warnings += merge.warnings.filter { warning in options.adapters.contains { warning.isAbout($0.adapter.path) } }
        try writeAdapter(into: staged)
      }
      let report = try job.run(progress: progress)
      try staged.publish()
      job.output.path = path + "/" + Self.modelName
      return Result(job: job, report: report, lost: lost)
    } catch {
      staged.discard()
      throw error
    }
  }

  /// The adapter as it is, or one made of all.
  private func writeAdapter(into staged: StagedOutput) throws {
    if options.adapters.count == 1, options.adapters[0].weight == 1 {
      for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let source = try InputFile(options.adapters[0].adapter.path + "/" + name)
        let file = try staged.file(name, expectedSize: source.size)
        for start in stride(from: 0, to: source.size, by: 1 << 22) {
          try file.write(try source.bytes(at: start, count: min(1 << 22, source.size - start)), at: start)
        }
        try file.finish(length: source.size)
      }
      return
    }
    var options = options
    if options.method == .sum { options.method = .cat }
    try AdapterCombination(options, anyBase: true).write(into: staged)
  }
}
