import NibbleCalibration
import NibbleCore
import NibbleFormats

/// What a text has to do with the blocks of a GGUF file: how much inputs count in the search for scales, or which codes are best.
struct GgufWeighing {
  private let encoder: EncoderFlag?
  private let calibrating: CalibratingOptions

  /// - Parameter hasFile: whether there is a file of importance
  /// - Throws: `.usage` for encoders of other codecs, and for a text that nothing reads
  init(_ encoder: EncoderFlag?, _ calibrating: CalibratingOptions, hasFile: Bool) throws {
    (self.encoder, self.calibrating) = (encoder, calibrating)
    guard let encoder else {
      try TextOptions.refuse(TextOptions.flags + ["--seed"], unless: "--encoder imatrix and calibrated")
      return
    }
    guard [.imatrix, .calibrated].contains(encoder) else {
      throw NibbleError.usage("--encoder \(encoder.rawValue) does not go with GGUF files, which take imatrix and calibrated")
    }
    if hasFile { throw NibbleError.usage("--imatrix and --encoder \(encoder.rawValue) both say how much inputs count; leave out one") }
  }

  /// Finds the importance, where it comes from a text.
  func apply(to options: inout GgufOptions, _ source: Checkpoint, _ common: CommonOptions, isPlan: Bool) throws -> Summary.Extra {
    guard let encoder else { return Summary.Extra() }
    options.isWeighed = true
    guard encoder == .imatrix else { return Summary.Extra() }
    try options.checkSearchesScales()
    if let path = calibrating.text.statistics {
      let statistics = try StatisticsFile(path)
      try statistics.check(source, threads: common.workers)
      options.importance = try statistics.importance()
      return Summary.Extra(rows: [("importance", "statistics of \(statistics.tokens) tokens")])
    }
    let text = try ModelText(calibrating.text, seed: calibrating.seed, source, common, threads: common.workers, isPlan: isPlan)
    let extra = Summary.Extra(rows: [("importance", text.account)], members: [("importance", text.record)])
    guard !isPlan else { return extra }
    options.importance = try Importance(text, source, common)
    return extra
  }

  /// Decides the codes, where they are chosen one at a time.
  func apply(to job: inout StreamJob, _ write: WriteOptions, _ common: CommonOptions) throws -> Summary.Extra {
    guard encoder == .calibrated else { return Summary.Extra() }
    guard job.items.contains(where: { $0.leftOut == nil && $0.target.encoding.isPacked && !$0.source.isPacked }) else {
      throw NibbleError.usage("--encoder calibrated chooses codes of blocks, and no tensor of \(job.source.path) becomes any")
    }
    if write.output != nil { try job.check(isPlan: write.dryRun) }
    if write.resume, let output = write.output { try StreamJob.checkKeptCodes(of: output) }
    var calibration = try Calibrating(
      calibrating.text, seed: calibrating.seed, .calibrated, job.source, common, isPlan: write.dryRun)
    let (before, record) = (job.provenance, calibration.record)
    job.provenance = { before($0)?.setting("options", to: ["encoder": "calibrated", "calibration": record]) }
    job.resumes = write.resume
    return try calibration.apply(to: &job, maximumMemory: write.maxMemory.flatMap(parseBytes)).0
  }
}

extension Importance {
  /// What a text makes of a model's inputs.
  ///
  /// - Throws: `.usage` for a model that no GGUF file is written of, before the text is run
  init(_ text: ModelText, _ source: Checkpoint, _ common: CommonOptions) throws {
    try Self.check(source)
    var options = CalibrationOptions()
    // llama.cpp caps nothing.
    options.cap = .infinity
    let name = text.text.source == "self-written" ? "the text the model wrote" : "text \(text.text.digest)"
    self = try StatisticsPass(text.model, text.text.windows, diagonal: true, options).importance(name, progress: common.progress("importance"))
    Progress.clear()
  }
}
