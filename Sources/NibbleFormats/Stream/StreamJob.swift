import NibbleCore
import NibbleQuant

/// A checkpoint on its way into another container: what every verb that writes one hands to the stream.
public struct StreamJob: Sendable {
  /// One tensor and what it is to become.
  public struct Item: Sendable {
    /// As it is.
    public let source: StoredTensor
    /// As it will be.
    public var target: TensorTarget
    /// Why it is left out of the output, where the container has no place for it.
    package var leftOut: String?
    /// The tensor of the source that it is a part of, or another form of, where it is not one of the source's own.
    package var whole: StoredTensor?
    /// How its numbers come of those of `whole`, where they are a part of them.
    package var part: ComposedBytes.Rule?
    /// Whether `whole` counts for the source's identity with it: of several parts it does once.
    package var countsWhole = true
    /// What is written in its place.
    package var replacement: StoredTensor?
    /// What is added on the way; made when its turn comes.
    package var change: (@Sendable () throws -> any TensorChange)?
    /// Whether codes are chosen so that the change survives.
    package var isShaped = false
    /// The codes, where they were decided before.
    package var decided: DecidedCodes?
    /// What those codes make of the change in what the layer gives on the text they were decided from. Codes that make up for errors of other
    /// layers stand for other weights; what became of a change shows in outputs.
    package var decidedChange: ChangeSums?

    package init(source: StoredTensor, target: TensorTarget) {
      self.source = source
      self.target = target
    }
  }

  /// Where the tensors come from.
  public let source: Checkpoint
  /// In name order.
  public var items: [Item]
  /// What to write and where.
  public var output: OutputSpec
  /// Threads to work with.
  public var threads = availableCores
  /// Bytes of memory to stay below.
  public var maximumMemory: Int?
  /// Corner cases of the encoder.
  public var rules = EncodingRules.nearest
  /// How scales are chosen.
  public var encoder = ScaleSearch.absmax
  /// How offsets of blocks are chosen, where there are any.
  public var offsets = OffsetSearch()
  /// Goes on where `refusesNonfinite` would stop.
  public var allowsNonfinite = false
  /// Where tensors are changed on their way.
  public var changing = ChangeStep()
  /// The model card of a folder, given what was done.
  package var card: (@Sendable (StreamReport) -> String)?
  /// Looks at the finished output, by the name it has until it is published; gives warnings.
  package var beforePublishing: (@Sendable (String) throws -> [Warning])?
  /// Files read beside the source, which the output must not replace.
  package var otherInputs: [InputFile] = []
  /// A packed tensor's relative error above this stops the job.
  public var maximumError: Double?
  /// Whether a journal is kept, and what an earlier run left is taken up where its journal ends.
  public var resumes = false
  /// The provenance to write, given the identity of the source.
  public var provenance: @Sendable (Digest128) -> JSON? = { _ in nil }
  /// The published model that the output holds too.
  public var origin: ModelOrigin?
  /// Whether tensors with values that are not finite stop the job.
  public var refusesNonfinite = true
  /// What was decided for each tensor and why, where something was.
  public var decisions: [PackingDecision] = []
  /// The type every float tensor is written in, as configurations spell it, where one was asked for.
  public var dtypeName: String?
  /// Things worth telling that stop nothing.
  public var warnings: [Warning] = []

  /// Ways to choose the scale of a block.
  public typealias Encoder = ScaleSearch

  /// A job that changes nothing but what `items` say.
  public init(_ source: Checkpoint, items: [Item], output: OutputSpec) {
    self.source = source
    self.items = items
    self.output = output
    warnings = source.warnings
    origin = source.origin
  }

  /// Sends everything through.
  ///
  /// - Parameter progress: gets bytes done and bytes in all
  /// - Throws: every kind of `NibbleError`; nothing is left behind then, but for a job that `resumes` and was only interrupted
  public func run(progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> StreamReport {
    try check()
    let started = monotonicSeconds()
    let job = try output.format.container.arranged(savingWhatIsLost())
    let staged = try StagedOutput(output.path, shape, force: output.force, keepingPartial: resumes)
    let undoing = try changing.undo.map { try StagedOutput($0, .file, force: output.force) }
    let journal = resumes ? try Journal(staged, job.fingerprint, expectedBytes: job.prediction().outputBytes) : nil
    do {
      var report = try job.write(to: staged, journal, progress)
      if let check = beforePublishing { report.warnings += try check(staged.staging) }
      if let undoing { report.undo = try writeUndo(of: staged.staging, to: undoing) }
      try source.checkUnchanged()
      try staged.publish()
      try undoing?.publish()
      report.seconds = monotonicSeconds() - started
      return report
    } catch let error as NibbleError where error.isPassing && journal.map({ $0.count > 0 }) == true {
      staged.leave()
      undoing?.discard()
      throw NibbleError(error.kind, error.text + "; what is done so far is kept, and \(.resume) goes on from there")
    } catch {
      staged.discard()
      undoing?.discard()
      throw error
    }
  }

  /// What may stand at the output's name and be replaced.
  var shape: StagedOutput.Shape {
    guard card != nil, !output.isSingleFile else { return output.shape }
    return .folder { ModelFileNames.isOurs($0) || $0 == "README.md" }
  }

  private func write(
    to staged: StagedOutput, _ journal: Journal?, _ progress: @escaping (Int, Int) -> Void
  ) throws -> StreamReport {
    let total = items.reduce(0) { $0 + $1.source.plainBytes }
    var done = 0
    let stream = stream { count in
      done += count
      progress(done, total)
    }
    let predicted = prediction(threads: max(1, workingThreads))
    if predicted.isExact, let free = staged.freeBytes, free < predicted.outputBytes {
      throw NibbleError.cannotWrite(
        "\(path: output.path): \(byteText(predicted.outputBytes)) are needed, \(byteText(free)) are free")
    }
    let placeholder = provenance(Digest128(high: 0, low: 0))
    let writer = try output.format.container.writer(self, staged, placeholder, size: predicted.outputBytes)
    var report = StreamReport()
    if writer.takesFilesFirst {
      for small in source.smallFiles { _ = try writer.carry(small, stream) }
    }
    var identity = IdentityHasher()
    var sourceIdentity = IdentityHasher()
    for item in output.format.container.ordered(items) {
      if item.leftOut != nil {
        sourceIdentity.add(
          item.source.name, item.source.dtype, item.source.shape, item.source.encoding, try stream.hash(item.source))
        stream.progress(item.source.plainBytes)
        continue
      }
      let writers = try writer.open(item.target)
      let known = try journal?.takeOver(item.target.name, writers)
      let outcome = try known ?? send(item, stream, into: writers)
      if known != nil { stream.progress(item.source.plainBytes) }
      try checkQuality(item, outcome)
      try writer.close(item.target, writers, outcome)
      if known == nil { try journal?.note(item.target.name, writers, outcome, sync: writer.sync) }
      identity.add(item.target.name, item.target.dtype, item.target.shape, item.target.encoding, outcome.digest)
      if let whole = item.whole {
        if item.countsWhole, !source.added.contains(whole.name) {
          sourceIdentity.add(whole.name, whole.dtype, whole.shape, whole.encoding, try stream.hash(whole))
        }
      } else if !source.added.contains(item.source.name) {
        sourceIdentity.add(
          item.source.name, item.source.dtype, item.source.shape, item.source.encoding, outcome.sourceDigest)
      }
      report.add(item, outcome, minimumSurvival: changing.minimumSurvival(item.target))
    }
    try checkSurvival(report)
    try checkClaim(sourceIdentity.identity)
    if !writer.takesFilesFirst {
      for small in source.smallFiles where try !writer.carry(small, stream) {
        try stream.read(try small.section, small.name, XXH3())
        report.notCarried.append(small.name)
      }
    }
    try source.checkPadding()
    report.identity = identity.identity
    report.sourceIdentity = sourceIdentity.identity
    if let card, !output.isSingleFile {
      let bytes = Array(card(report).utf8)
      _ = try writer.carry(Checkpoint.SmallFile(name: "README.md", section: StoredSection(.file, bytes: bytes)), stream)
    }
    report.bytesOut = try writer.finish(
      identity: report.identity, provenance: provenance(report.sourceIdentity))
    try journal?.writeDown()
    report.resumed = journal?.taken ?? report.resumed
    report.compressed = writer.compressed
    report.bytesIn = source.storedBytes
    report.decoded = items.count { $0.source.encoding.kind.isForeign && !$0.target.encoding.isPacked && $0.leftOut == nil }
    report.notCarried += source.leftOutFiles
    report.warnings = warnings + output.format.container.warnings(self) + (journal?.warnings ?? []) + survivalWarnings(report) + underflowWarnings(report)
    if report.nonfinite > 0, !allowsNonfinite {
      report.warnings.append(
        .init(
          .nonfinite,
          "\(path: source.path): the output has \(report.nonfinite) NaN or infinite values"
            + (report.finiteLost > 0 ? ", the source \(report.nonfinite - report.finiteLost)" : "")))
    }
    if !output.isSingleFile, source.config == nil {
      report.warnings.append(
        .init(
          .compatibility,
          "\(path: output.path): there was no config.json to put into it, so it is no model folder; its .safetensors can be opened itself"
        ))
    }
    return report
  }

  /// The stream that this job's tensors go through.
  func stream(progress: @escaping (Int) -> Void = { _ in }) -> TensorStream {
    TensorStream(threads: max(1, workingThreads), rules: rules, search: encoder, offsets: offsets, progress: progress)
  }

  private func send(_ item: Item, _ stream: TensorStream, into writers: [SectionWriter]) throws -> TensorOutcome {
    var outcome = try stream.send(
      item.replacement ?? item.source, changedBy: item.change?(), isShaped: item.isShaped, decided: item.decided, as: item.target,
      into: writers)
    if let change = item.decidedChange { outcome.change = change }
    if item.replacement != nil { outcome.sourceDigest = try stream.hash(item.source) }
    return outcome
  }

}

extension NibbleError {
  /// Whether the same work may well succeed later.
  package var isPassing: Bool { [.interrupted, .terminated, .cannotWrite].contains(kind) }
}
