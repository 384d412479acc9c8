import NibbleCore
import NibbleFormats

/// A merge from what was asked for to what is written: on which of the base's values the adapters belong, what is refused before any
/// work, the checks of what was written, the form of the output.
public struct MergeJob {
  /// The checkpoint to merge into.
  public let base: Checkpoint
  /// What is merged, and how.
  public var options: MergeOptions
  /// What and where to write.
  public var output: OutputSpec
  /// The packed form of the base that the adapters were trained on, as `QuantizeOptions(trainedOn:)` reads it; `BaseMatch.original` for
  /// the base's own values; nil to go by what the adapters say.
  public var trainedOn: String?
  /// Whether adapters of another base are merged all the same.
  public var anyBase = false
  /// What becomes of packed tensors that would lose their change.
  public var whenLost = WhenLost.fail
  /// Where to write a patch that leads from the output back to the base.
  public var undo: String?
  /// Compares what was written with the base and its adapters; nil for no comparison.
  public var check: MergeCheck?
  /// Looks at the finished output, given the values the adapters were merged onto and the output's name until it is published; gives
  /// warnings.
  public var compare: (@Sendable (Checkpoint, String) throws -> [Warning])?
  /// Threads to work with.
  public var threads = availableCores
  /// Whether only a plan is wanted: the base is not packed then, even where it would have to be.
  public var plans = false
  /// Whether an interrupted run is taken up.
  public var resumes = false

  /// A merge of `options.adapters` into `base`.
  public init(_ base: Checkpoint, _ options: MergeOptions, to output: OutputSpec) {
    (self.base, self.options, self.output) = (base, options, output)
  }

  /// A merge that can be run.
  public enum Ready {
    /// One output.
    case stream(StreamJob)
    /// A folder with the base and, where a change would be lost, the adapters beside it; the job is what a plan shows.
    case bundle(KeptBundle, plan: StreamJob, prepare: (inout StreamJob) -> Void)
  }

  /// Refuses what can be refused, packs the base where the adapters were trained on its packed form, and makes the job.
  ///
  /// - Returns: the job, and how the base matches what the adapters say
  /// - Throws: `.usage` for options that contradict each other, `.adapterMismatch` for adapters of another base
  public func ready() throws -> (work: Ready, match: BaseMatch) {
    if undo != nil, whenLost == .keep || trainedOn != nil {
      throw NibbleError.usage(
        "\(.undo) leads back to the base as it is: it goes with neither \(.trainedOn) nor \(.whenLost, "keep")")
    }
    if whenLost == .keep, resumes { throw NibbleError.usage("\(.resume) does not go with \(.whenLost, "keep")") }
    if !plans { Checkpoint.clearPackedForm(beside: output.path) }
    let match = try BaseMatch(
      base, options.adapters.map(\.adapter), trainedOn: trainedOn, anyBase: anyBase, threads: threads)
    let values = try values(match)
    let prepare = preparation(values, match)
    guard whenLost == .keep else {
      var job = try StreamJob.merge(values, options, to: output, check: check)
      prepare(&job)
      return (.stream(job), match)
    }
    let bundle = try KeptBundle(values, options, to: output)
    return (.bundle(bundle, plan: try StreamJob.merge(values, options, to: output), prepare: prepare), match)
  }

  /// The values that the adapters belong on: the base's own, or those of its packed form.
  private func values(_ match: BaseMatch) throws -> Checkpoint {
    guard let trainedOn = match.trainedOn else { return base }
    var packing = try QuantizeOptions(trainedOn: trainedOn)
    packing.bnbRules = options.packing.bnbRules
    guard base.packed.isEmpty else {
      throw NibbleError.usage(
        "\(path: base.path) is packed already: adapters are merged onto its values as they are, without \(.trainedOn)")
    }
    if plans { return base }
    // What can be refused is refused before the base is packed.
    try StreamJob.merge(base, options, to: output).check()
    let values = try base.packedForm(packing, beside: output.path, threads: threads)
    try match.check(values, of: base, anyBase: anyBase)
    return values
  }

  /// What every job of this merge needs beside what it merges.
  private func preparation(_ values: Checkpoint, _ match: BaseMatch) -> (inout StreamJob) -> Void {
    { [self] job in
      if let compare {
        let before = job.beforePublishing
        job.beforePublishing = { try (before?($0) ?? []) + compare(values, $0) }
      }
      (job.changing.whenLost, job.changing.undo) = (whenLost, undo)
      job.warnings += match.warnings
      if match.trainedOn != nil { job.otherInputs += base.files }
    }
  }
}
