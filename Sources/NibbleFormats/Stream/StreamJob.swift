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
    /// What is written in its place.
    package var replacement: StoredTensor?
    /// What is added on the way; made when its turn comes.
    package var change: (@Sendable () throws -> any TensorChange)?
    /// Whether codes are chosen so that the change survives.
    package var isShaped = false

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
  public var encoder = Encoder.absmax
  /// Goes on where `refusesNonfinite` would stop.
  public var allowsNonfinite = false
  /// The model card of a folder, given what was done.
  package var card: (@Sendable (StreamReport) -> String)?
  /// Looks at the finished output, by the name it has until it is published; gives warnings.
  package var beforePublishing: (@Sendable (String) throws -> [String])?
  /// Where to write a patch that leads from the output back to the source, byte for byte.
  public var undo: String?
  /// What becomes of packed tensors that would lose their change.
  public var whenLost = WhenLost.fail
  /// Bytes of memory that what is added takes.
  package var addedMemory = 0
  /// Files read beside the source, which the output must not replace.
  package var otherInputs: [InputFile] = []
  /// The least share of its change that a tensor may keep, by what it becomes; nil for any.
  public var minimumSurvival: @Sendable (TensorTarget) -> Double? = { _ in nil }
  /// A packed tensor's relative error above this stops the job.
  public var maximumError: Double?
  /// Whether a journal is kept, and what an earlier run left is taken up where its journal ends.
  public var resumes = false
  /// What is added on the way, for those who must know whether it is the same again.
  package var ingredients = JSON.null
  /// The provenance to write, given the identity of the source.
  public var provenance: @Sendable (Digest128) -> JSON? = { _ in nil }
  /// Whether tensors with values that are not finite stop the job.
  public var refusesNonfinite = true
  /// What was decided for each tensor and why, where something was.
  public var decisions: [PackingDecision] = []
  /// The type every float tensor is written in, as configurations spell it, where one was asked for.
  public var dtypeName: String?
  /// Things worth telling that stop nothing.
  public var warnings: [String] = []

  /// Ways to choose the scale of a block.
  public enum Encoder: String, Sendable, CaseIterable {
    /// The scale of a block is its greatest magnitude, as bitsandbytes has it.
    case absmax
    /// The scale with the least squared error.
    case mse
    /// The same among scales of either sign: of the values of NF4 eight are positive and seven negative.
    case mseSigned = "mse-signed"

    /// Whether scales are chosen before codes are, in a pass of its own.
    var searches: Bool { self != .absmax }
  }

  /// A job that changes nothing but what `items` say.
  public init(_ source: Checkpoint, items: [Item], output: OutputSpec) {
    self.source = source
    self.items = items
    self.output = output
    warnings = source.warnings
  }

  /// Sends everything through.
  ///
  /// - Parameter progress: told bytes done and bytes in all
  /// - Throws: every kind of `NibbleError`; nothing is left behind then, but for a job that `resumes` and was only interrupted
  public func run(progress: @escaping (Int, Int) -> Void = { _, _ in }) throws -> StreamReport {
    try check()
    let started = monotonicSeconds()
    let job = try savingWhatIsLost()
    let staged = try StagedOutput(output.path, shape, force: output.force, keepingPartial: resumes)
    let undoing = try undo.map { try StagedOutput($0, .file, force: output.force) }
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
      throw NibbleError(error.kind, error.message + "; what is done so far is kept, and --resume goes on from there")
    } catch {
      staged.discard()
      undoing?.discard()
      throw error
    }
  }

  /// What may stand at the output's name and be replaced.
  private var shape: StagedOutput.Shape {
    guard card != nil, !output.isSingleFile else { return output.shape }
    return .folder { SmallFileNames.isOurs($0) || $0 == "README.md" }
  }

  /// Everything that can be refused before the output is touched.
  public func check() throws {
    try checkIsNoInput(output.path)
    try StagedOutput.checkReplaceable(output.path.withoutTrailingSlashes, shape, force: output.force)
    if encoder.searches, rules != .nearest {
      throw NibbleError.usage("--encoder \(encoder.rawValue) chooses its own scales; it goes with --bnb-rules nearest only")
    }
    try checkUndo()
    let packed = items.filter { $0.target.encoding != .plain }
    if output.format == .safetensors, let first = packed.first {
      let way =
        packed.contains { $0.target.encoding == .int8 }
        ? "dequantize" : "use --format bnb, which keeps their codes, or dequantize"
      throw NibbleError.usage(
        "\(source.path): \(packed.count) packed tensors (\(quoted(first.target.name.text)), …) have no place in plain safetensors; "
          + way)
    }
    if output.compression.isOn {
      let makesRows = items.contains { $0.target.encoding == .int8 && $0.source.encoding != .int8 || $0.change != nil }
      guard !makesRows, whenLost != .promote, whenLost != .shape else {
        throw NibbleError.usage(
          "--compress does not go with int8, nor with merging; write the file and convert it with --compress")
      }
    }
    if output.format == .bnb { try checkRows(packed.map(\.target)) }
    if let limit = maximumMemory, workingThreads < 1 {
      throw NibbleError.usage(
        "--max-memory \(byteText(limit)) is below the \(byteText(prediction(threads: 1).peakMemory)) this takes with one thread")
    }
  }

  /// A bitsandbytes checkpoint is of 8 bits or of 4, and names what it holds of 8 after the module.
  private func checkRows(_ packed: [TensorTarget]) throws {
    let rows = packed.filter { $0.encoding == .int8 }
    if let first = rows.first, rows.count < packed.count {
      throw NibbleError.usage(
        "\(source.path): \(quoted(first.name.text)) is int8, which has no place among the 4-bit tensors of a bitsandbytes checkpoint"
      )
    }
    if let other = rows.first(where: { RowLayout.module(of: $0.name.text) == nil }) {
      throw NibbleError.usage(
        "\(source.path): \(quoted(other.name.text)) is int8 and not called '….weight', which bitsandbytes has no place for")
    }
    guard whenLost != .promote || packed.allSatisfy({ $0.encoding == .int8 }) else {
      throw NibbleError.usage(
        "--when-lost promote writes int8 tensors, which have no place among a bitsandbytes checkpoint's 4-bit ones; use 16bit")
    }
  }

  /// Throws if writing `output` would replace something that is read.
  package func checkIsNoInput(_ output: String) throws {
    try Self.checkIsNone(of: otherInputs + source.files + source.smallFiles.compactMap(\.section.inputFile), output)
    if PathKind(output) == .folder, PathKind(source.path) == .folder, isSameFolder(output, source.path) {
      throw NibbleError.usage("\(output) is the input; give another output")
    }
  }

  /// Throws if `output` is one of `inputs`, or a folder that one lies in: a folder is replaced whole.
  package static func checkIsNone(of inputs: [InputFile], _ output: String) throws {
    let path = output.withoutTrailingSlashes
    if inputs.contains(where: { $0.isSameFile(as: path) }) {
      throw NibbleError.usage("\(output) is an input; give another output")
    }
    guard PathKind(path) == .folder else { return }
    // By whatever name.
    let inside = try namesInFolder(path).first { name in inputs.contains { $0.isSameFile(as: path + "/" + name) } }
    if let inside { throw NibbleError.usage("\(output) holds the input \(quoted(inside)); give another output") }
  }

  private func write(
    to staged: StagedOutput, _ journal: Journal?, _ progress: @escaping (Int, Int) -> Void
  ) throws -> StreamReport {
    let total = items.reduce(0) { $0 + $1.source.plainBytes }
    var done = 0
    let stream = TensorStream(threads: max(1, workingThreads), rules: rules, encoder: encoder) { count in
      done += count
      progress(done, total)
    }
    let predicted = prediction(threads: max(1, workingThreads))
    if predicted.isExact, let free = staged.freeBytes, free < predicted.outputBytes {
      throw NibbleError.cannotWrite(
        "\(output.path): \(byteText(predicted.outputBytes)) are needed, \(byteText(free)) are free")
    }
    let placeholder = provenance(Digest128(high: 0, low: 0))
    let writer = try makeWriter(staged, placeholder, predicted.outputBytes)
    var report = StreamReport()
    if output.format == .nbl {
      for small in source.smallFiles { _ = try writer.carry(small, stream) }
    }
    var identity = IdentityHasher()
    var sourceIdentity = IdentityHasher()
    for item in items {
      let writers = try writer.open(item.target)
      let known = try journal?.takeOver(item.target.name, writers)
      let outcome = try known ?? send(item, stream, into: writers)
      if known != nil { stream.progress(item.source.plainBytes) }
      try checkQuality(item, outcome)
      try writer.close(item.target, writers, outcome)
      if known == nil { try journal?.note(item.target.name, writers, outcome, sync: writer.sync) }
      identity.add(item.target.name, item.target.dtype, item.target.shape, item.target.encoding, outcome.digest)
      if !source.added.contains(item.source.name) {
        sourceIdentity.add(
          item.source.name, item.source.dtype, item.source.shape, item.source.encoding, outcome.sourceDigest)
      }
      report.add(item, outcome, minimumSurvival: minimumSurvival(item.target))
    }
    try checkSurvival(report)
    try checkClaim(sourceIdentity.identity)
    if output.format != .nbl {
      for small in source.smallFiles where try !writer.carry(small, stream) {
        try stream.read(small.section, small.name, XXH3())
        report.notCarried.append(small.name)
      }
    }
    if source.container == .nbl { try source.checkPadding() }
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
    report.notCarried += source.leftOutFiles
    report.warnings = warnings + (journal?.warnings ?? []) + survivalWarnings(report)
    if report.nonfinite > 0, !allowsNonfinite {
      report.warnings.append("\(source.path): \(report.nonfinite) NaN or infinite values were moved as they are")
    }
    if !output.isSingleFile, source.config == nil {
      report.warnings.append(
        "\(output.path): there was no config.json to put into it, so it is no model folder; its .safetensors can be opened itself"
      )
    }
    return report
  }

  private func send(_ item: Item, _ stream: TensorStream, into writers: [SectionWriter]) throws -> TensorOutcome {
    var outcome = try stream.send(
      item.replacement ?? item.source, changedBy: item.change?(), isShaped: item.isShaped, as: item.target, into: writers)
    if item.replacement != nil { outcome.sourceDigest = try stream.hash(item.source) }
    return outcome
  }

  /// What the container says of itself must be what was read.
  private func checkClaim(_ identity: Digest128) throws {
    guard let claimed = source.claimedIdentity, items.count == source.tensors.count, claimed != identity else { return }
    throw NibbleError.integrity(
      "\(source.path): its tensors have the identity \(identity), the file says \(claimed)")
  }

  private func checkQuality(_ item: Item, _ outcome: TensorOutcome) throws {
    let name = quoted(item.source.name.text)
    if outcome.counts.nonfinite > 0, refusesNonfinite, !allowsNonfinite {
      if outcome.change != nil {
        throw NibbleError.quality(
          "\(output.path): tensor \(name) would have \(outcome.counts.nonfinite) NaN or infinite values with what is merged into it; "
            + "--allow-nonfinite goes on all the same")
      }
      let what =
        item.target.encoding == .int8
        ? "values in rows where one is NaN, infinite or beyond what fp16 holds"
        : item.target.dtype == .f16 && item.source.dtype != .f16
          ? "values that are NaN, infinite or beyond what fp16 holds" : "NaN or infinite values"
      throw NibbleError.quality(
        "\(item.source.sections[0].place): tensor \(name) has \(outcome.counts.nonfinite) \(what); "
          + "--allow-nonfinite goes on all the same")
    }
    if let limit = maximumError, let error = outcome.relativeError, item.target.encoding != .plain, !(error <= limit) {
      throw NibbleError.quality(
        "\(item.source.sections[0].place): tensor \(name) has a relative error of \(decimal(error, 4, apartFrom: limit)), more than --max-error \(limit)"
      )
    }
  }

  /// Where rounding took more than a tenth of a change, and where there was no change at all.
  private func survivalWarnings(_ report: StreamReport) -> [String] {
    var warnings: [String] = []
    let low = report.changed.filter { $0.sums.survival < 0.9 }
    if let worst = low.min(by: { $0.sums.survival < $1.sums.survival }) {
      warnings.append(
        "\(output.path): \(low.count) of \(report.changed.count) changed tensors keep less than 0.9 of their change; the worst, "
          + "\(quoted(worst.name)), keeps \(decimal(worst.sums.survival, 3))")
    }
    let dead = report.changed.filter(\.sums.isDead)
    if let first = dead.first {
      warnings.append(
        "\(dead.count) of \(report.changed.count) adapted tensors, \(quoted(first.name)) the first, are not changed: the adapter is zero there"
      )
    }
    return warnings
  }

  /// A merge that loses what it was made for is refused before anything is visible.
  private func checkSurvival(_ report: StreamReport) throws {
    // A minimum of 0 refuses nothing, not even what rounding turned around.
    let lost = report.changed.filter { tensor in tensor.minimum.map { $0 > 0 && !(tensor.sums.survival >= $0) } ?? false }
    guard let worst = lost.min(by: { $0.sums.survival < $1.sums.survival }), let minimum = worst.minimum else { return }
    throw NibbleError.quality(
      "\(output.path): \(lost.count) of \(report.changed.count) changed tensors would keep less than \(minimum) of their change; the worst, "
        + "\(quoted(worst.name)), keeps \(decimal(worst.sums.survival, 3, apartFrom: minimum)) of a change of "
        + "\(decimal(100 * worst.sums.relativeDelta, 2)) % of the weight" + advice(for: worst.target))
  }

  /// What may still save a packed tensor from losing its change.
  private func advice(for target: TensorTarget) -> String {
    guard target.encoding != .plain else { return "" }
    let tried = target.encoding == .int8 ? WhenLost.promote : whenLost
    let ways = tried.further.map(\.rawValue)
    return "; merge into the 16-bit original and pack that anew (--base ORIGINAL), or use --when-lost "
      + ways.dropLast().joined(separator: ", ") + " or \(ways.last ?? "")"
  }

  private func makeWriter(_ staged: StagedOutput, _ provenance: JSON?, _ size: Int) throws -> any CheckpointWriter {
    let targets = items.map(\.target)
    if output.format == .nbl {
      return try NblWriter(
        staged, targets, source.smallFiles, metadata: source.metadata, provenance: provenance,
        compression: output.compression, expectedSize: size)
    }
    let record = sideRecord(provenance)
    return try SafetensorsWriter(
      staged, layout(record), isFolder: !output.isSingleFile, config: writtenConfig(targets), record: record,
      isJournalled: resumes)
  }

  func sideRecord(_ provenance: JSON?) -> SideRecord? {
    guard output.format == .bnb else { return nil }
    var record = SideRecord()
    record.identity = Digest128(high: 0, low: 0)
    record.provenance = provenance
    record.metadata = source.metadata
    record.rowTypes = items.filter { $0.target.encoding == .int8 }.map { ($0.target.name.text, $0.target.dtype) }
    record.transposed = items.filter { $0.target.isTransposed }.map(\.target.name.text)
    if !output.isSingleFile, let config = source.smallFiles.first(where: { $0.name == "config.json" }) {
      record.config = try? String(
        decoding: SectionReader(config.section, config.name).readWhole(limit: Checkpoint.jsonLimit), as: UTF8.self)
    }
    return record
  }

  func layout(_ record: SideRecord?) -> SafetensorsLayout {
    var metadata = source.metadata
    if let record, output.isSingleFile { metadata.append((SideRecord.metadataKey, record.json.text())) }
    return SafetensorsLayout(
      items.map(\.target), metadata: metadata, maximumShard: output.isSingleFile ? Int.max : output.maximumShard)
  }

  /// config.json with what it says of types and quantization made to fit what is written; nil to carry it as it is.
  func writtenConfig(_ targets: [TensorTarget]) -> JSON? {
    guard var config = source.config else { return nil }
    if output.format == .safetensors {
      if let name = dtypeName {
        for key in ["dtype", "torch_dtype"] where config[key] != nil { config = config.setting(key, to: JSON(name)) }
      }
      config = config.removing("quantization_config")
      return config == source.config ? nil : config
    }
    if config["quantization_config"] != nil, items.allSatisfy({ $0.source.encoding == $0.target.encoding }) { return nil }
    guard let quantization = QuantizationConfig.json(targets, family: source.family) else { return nil }
    return config.setting("quantization_config", to: quantization)
  }
}

extension StoredSection {
  var inputFile: InputFile? { if case .file(let file, _) = source { file } else { nil } }
}

extension NibbleError {
  /// Whether the same work may well succeed later.
  fileprivate var isPassing: Bool { [.interrupted, .terminated, .cannotWrite].contains(kind) }
}
