import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// The text that a model's layers read.
struct TextOptions: ParsableArguments {
  static let help = ArgumentHelp(
    "Text to calibrate with: a text file, JSON Lines with a 'text' key in each row or rows as finetune takes them, or a folder of such files; may be repeated. Without it, the model writes its own text.",
    valueName: "TEXT|JSONL|DIR")
  static let ownHelp = ArgumentHelp(
    "Share of the tokens that the model writes itself beside --calibration, between 0 and 1: conversations, where it has a chat template.",
    valueName: "SHARE")
  static let precisionHelp: ArgumentHelp =
    "Precision of the products when the model reads the text: fp32, or bf16 with float32 sums. Codes and moments are computed in fp32."

  @Option(help: TextOptions.help)
  var calibration: [String] = []

  @Option(help: "Tokens to calibrate with.")
  var calibrationTokens = 65536

  @Option(
    help: ArgumentHelp("Calibrate with what 'nibble calibrate' wrote, in place of a text; no model is run.", valueName: "FILE"))
  var statistics: String?

  @Option(help: TextOptions.ownHelp)
  var ownText: Double?

  @Option(help: TextOptions.precisionHelp)
  var computeDtype: Compute = .f32

  /// Whether a text is named, or what stands for one.
  var isGiven: Bool { !calibration.isEmpty || statistics != nil }

  func validate() throws {
    guard (1...1 << 28).contains(calibrationTokens) else {
      throw ValidationError("--calibration-tokens must be from 1 to \(1 << 28)")
    }
    try Self.check(ownText: ownText, calibration)
    if statistics != nil, let other = Arguments.given(["--calibration", "--calibration-tokens", "--compute-dtype", "--seed"]).first {
      throw ValidationError("--statistics stands for a text; leave out \(other)")
    }
  }

  /// Throws for a share of the model's own text that is none, or that nothing is beside.
  static func check(ownText share: Double?, _ texts: [String]) throws {
    guard let share else { return }
    guard share > 0, share < 1 else { throw NibbleError.usage("--own-text \(share) is not between 0 and 1") }
    guard !texts.isEmpty else { throw NibbleError.usage("--own-text goes with --calibration; without a text the model writes all of it") }
  }

  static let flags = ["--calibration", "--calibration-tokens", "--statistics", "--own-text", "--compute-dtype"]

  /// Refuses flags that are given where no text is read.
  ///
  /// - Parameter use: what they go with
  static func refuse(_ flags: [String] = flags, unless use: String) throws {
    if let first = Arguments.given(flags).first { throw NibbleError.usage("\(first) is for \(use)") }
  }
}

/// Flags of encoders that read a text.
struct CalibratingOptions: ParsableArguments {
  @OptionGroup var text: TextOptions

  @Option(help: "Seed of the text that the model writes.")
  var seed: UInt64 = 0

  /// Refuses flags that are given where no text is read.
  func refuse(_ encoder: EncoderFlag) throws {
    let flags = TextOptions.flags + ["--seed"]
    if encoder == .auto, let first = Arguments.given(flags).first {
      throw NibbleError.usage("\(first): no model that runs here reads a text; leave it out")
    }
    try TextOptions.refuse(flags, unless: "--encoder calibrated, gptq or auto")
  }
}

/// A calibration: the model, the text, and what is said of them.
struct Calibrating {
  private enum Source {
    case text(ModelText)
    case statistics(StatisticsFile)
  }

  private let source: Source
  private let common: CommonOptions
  private let isPlan: Bool
  private var settings = CalibrationOptions()

  /// For the record of the output.
  var record: JSON {
    switch source {
    case .text(let text): text.record
    case .statistics(let file): ["source": "statistics", "tokens": JSON(file.tokens), "digest": JSON(file.text)]
    }
  }

  init(
    _ options: TextOptions, seed: UInt64 = 0, _ encoder: CalibrationOptions.Encoder, _ source: Checkpoint, _ common: CommonOptions, isPlan: Bool
  ) throws {
    if let path = options.statistics {
      let file = try StatisticsFile(path)
      try file.check(source, threads: common.workers)
      self.source = .statistics(file)
    } else {
      self.source = .text(try ModelText(options, seed: seed, source, common, threads: common.workers, isPlan: isPlan))
    }
    (self.common, self.isPlan) = (common, isPlan)
    settings.encoder = encoder
  }

  /// Decides the codes of a job, or says what that would take.
  ///
  /// - Parameters:
  ///   - rank: of the correction that is wanted too
  ///   - folder: where it goes
  mutating func apply(
    to job: inout StreamJob, correction rank: Int? = nil, in folder: String = "", maximumMemory: Int?
  ) throws -> (Summary.Extra, [Correction]) {
    settings.correctionRank = rank
    switch source {
    case .text(let source): return try apply(source, to: &job, folder, maximumMemory)
    case .statistics(let file): return isPlan ? (Summary.Extra(), []) : try apply(file, to: &job, folder)
    }
  }

  private func apply(
    _ source: ModelText, to job: inout StreamJob, _ folder: String, _ maximumMemory: Int?
  ) throws -> (Summary.Extra, [Correction]) {
    let (model, text) = (source.model, source.text)
    let packed = job.items.filter { $0.target.encoding.isPacked }
    let plan = try CalibrationPlan(
      model, tokens: text.tokens, window: min(CalibrationOptions.window, try model.contextLength),
      packed: packed.reduce(0) { $0 + $1.target.encoding.storedBytes($1.target.dtype, $1.target.shape) },
      writing: source.own, settings)
    if let limit = maximumMemory, plan.peakMemory > limit {
      throw NibbleError.usage(
        "--max-memory \(byteText(limit)): calibration takes about \(byteText(plan.peakMemory)) with \(text.tokens) tokens; fewer tokens take less")
    }
    if isPlan { return (Summary.calibrationPlan(plan, source), []) }
    let report = try job.calibrate(with: model, text.windows, settings, progress: common.progress("calibrate"))
    return finish(
      &job, report, folder,
      Summary.calibration(
        report, seconds: report.seconds + source.seconds, with: "\(source.account) in \(report.windows) windows",
        record: [("source", JSON(text.source)), ("digest", JSON(text.digest))], verbose: common.verbose))
  }

  private func apply(_ file: StatisticsFile, to job: inout StreamJob, _ folder: String) throws -> (Summary.Extra, [Correction]) {
    let report = try job.calibrate(from: file, settings, progress: common.progress("calibrate"))
    return finish(
      &job, report, folder,
      Summary.calibration(
        report, seconds: report.seconds, with: "statistics of \(report.tokens) tokens" + (file.isDiagonal ? ", energies only" : ""),
        record: [("source", "statistics"), ("digest", JSON(file.text))], verbose: common.verbose))
  }

  private func finish(
    _ job: inout StreamJob, _ report: CalibrationReport, _ folder: String, _ summary: Summary.Extra
  ) -> (Summary.Extra, [Correction]) {
    Progress.clear()
    job.warnings += report.warnings
    return (settings.correctionRank == nil ? summary : summary + Summary.correction(report, folder), report.corrections)
  }
}

extension Summary {
  /// What calibration is going to take.
  static func calibrationPlan(_ plan: CalibrationPlan, _ text: ModelText) -> Extra {
    Extra(
      rows: [
        (
          "calibration",
          "\(text.account), about \(decimal(plan.seconds / 60, 1)) min and \(byteText(plan.peakMemory)) of memory"
        )
      ],
      members: [
        (
          "calibration",
          [
            "source": JSON(text.text.source), "tokens": JSON(text.text.tokens), "seconds": JSON(plan.seconds),
            "peak_memory": JSON(plan.peakMemory),
          ]
        )
      ])
  }

  /// The adapter beside the codes.
  static func correction(_ report: CalibrationReport, _ folder: String) -> Extra {
    let numbers = report.corrections.reduce(0) { $0 + $1.a.count + $1.b.count }
    let left = report.certificates.count - report.corrections.count
    return Extra(
      rows: [
        (
          "correction",
          "\(folder): \(report.corrections.count) layers, \(numbers) numbers, output error mean \(scientific(report.meanCorrected)) with it"
            + (left > 0 ? "; \(left) layers it would not help are left out" : "")
        )
      ],
      members: [
        (
          "correction",
          [
            "output": JSON(folder), "modules": JSON(report.corrections.count), "parameters": JSON(numbers),
            "output_error": JSON(report.meanCorrected),
          ]
        )
      ])
  }

  /// How far the packed layers move the model's answers.
  private static func account(_ divergence: TokenMean, _ report: CalibrationReport) -> String {
    let place = (report.corrections.isEmpty ? "" : "with the correction, ") + (report.heldOut > 0 ? "on the tokens held out" : "on the text itself")
    guard report.isDivergenceOfScores else { return "squared error \(scientific(divergence.value)) of final states, \(place)" }
    let digits = divergence.value >= 0.001 ? 4 : 8
    return "KL \(decimal(divergence.value, digits)) ± \(decimal(divergence.standardError, digits)) nats a token from the float model's, \(place)"
  }

  /// What calibration did.
  ///
  /// - Parameters:
  ///   - material: what it was done with
  ///   - record: where that came from
  static func calibration(
    _ report: CalibrationReport, seconds: Double, with material: String, record: [(key: String, value: JSON)], verbose: Bool
  ) -> Extra {
    let all = report.certificates
    let answers = report.divergence.map { [(report.isDivergenceOfScores ? "kl_divergence" : "state_error", JSON($0.value))] } ?? []
    var rows: [(String, String)] = [
      (
        "calibrated",
        "\(report.taken) of \(all.count + report.unreached.count) packed tensors, with \(material), \(decimal(seconds, 1)) s"
      ),
      (
        "output error",
        "mean \(scientific(report.meanAfter)), \(scientific(report.meanBefore)) by mse, "
          + (report.windows == 0
            ? "by the statistics"
            : all.first?.isHeldOut == true ? "on \(report.heldOut) tokens held out" : "on the text itself: too short to hold any out")
      ),
    ]
    if report.weighed > 0 {
      rows.append(("by importance", "\(report.weighed) tensors whose types have more than 16 levels: their scales are searched for with the text"))
    }
    if let divergence = report.divergence { rows.append(("answers", account(divergence, report))) }
    if report.resumed > 0 { rows.append(("resumed", "the codes of \(report.resumed) tensors are from an earlier run")) }
    let worse = all.filter { !$0.isTaken }
    if !worse.isEmpty { rows.append(("kept mse", "\(worse.count) whose calibrated codes are no better: \(list(worse.map(\.name)))")) }
    if !report.unreached.isEmpty { rows.append(("not calibrated", list(report.unreached))) }
    if let most = report.mostCapped {
      rows.append(
        ("massive activations", "capped in \(all.count { $0.capped > 0 }) tensors, most in \(oneLine(most.name)): \(most.capped) tokens"))
    }
    if verbose {
      for one in all {
        rows.append(
          (
            "",
            "\(oneLine(one.name)): error \(scientific(one.before)) → \(scientific(one.after)), target moved \(percent(one.moved)) "
              + "(damping \(scientific(one.damping)), share \(decimal(one.share, 2))), "
              + "\(one.tokens) tokens, \(one.capped) capped" + (one.isTaken ? "" : ", mse kept")
          ))
      }
    }
    return Extra(
      rows: rows,
      members: [
        (
          "calibration",
          .object(record + answers + [
            ("tokens", JSON(report.tokens)), ("windows", JSON(report.windows)), ("held_out_tokens", JSON(report.heldOut)),
            ("calibrated_tensors", JSON(report.taken)), ("output_error", JSON(report.meanAfter)),
            ("output_error_mse", JSON(report.meanBefore)), ("seconds", JSON(seconds)), ("not_calibrated", JSON(report.unreached)),
            ("resumed_tensors", JSON(report.resumed)), ("weighed_tensors", JSON(report.weighed)),
            (
              "tensors",
              .array(
                all.map {
                  [
                    "name": JSON($0.name), "tokens": JSON($0.tokens), "capped_tokens": JSON($0.capped),
                    "measured_tokens": JSON($0.measured), "held_out": JSON.bool($0.isHeldOut), "error_before": JSON($0.before),
                    "error_after": JSON($0.after), "target_moved": JSON($0.moved), "target_damping": JSON($0.damping),
                    "target_share": JSON($0.share), "calibrated": JSON.bool($0.isTaken),
                  ]
                })
            ),
          ])
        )
      ])
  }
}
