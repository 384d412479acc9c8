import ArgumentParser
import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// Flags of encoders that read a text.
struct CalibratingOptions: ParsableArguments {
  @Option(
    help: ArgumentHelp(
      "Text to calibrate with: a text file, JSON Lines with a 'text' key in each row, or a folder of such files; may be repeated. Without it, the model writes its own text.",
      valueName: "TEXT|JSONL|DIR"))
  var calibration: [String] = []

  @Option(help: "Tokens to calibrate with.")
  var calibrationTokens = 65536

  @Option(help: "Seed of the text that the model writes.")
  var seed: UInt64 = 0

  /// Whether a text is named.
  var isGiven: Bool { !calibration.isEmpty }

  func validate() throws {
    guard (1...1 << 28).contains(calibrationTokens) else {
      throw ValidationError("--calibration-tokens must be from 1 to \(1 << 28)")
    }
  }

  /// Refuses flags that are given where no text is read.
  func refuse(_ encoder: EncoderFlag) throws {
    let given = Arguments.given(["--calibration", "--calibration-tokens", "--seed"])
    if let first = given.first, encoder == .auto { throw NibbleError.usage("\(first): no model that runs here reads a text; leave it out") }
    if let first = given.first { throw NibbleError.usage("\(first) is for --encoder calibrated, gptq or auto") }
  }
}

/// A calibration: the model, the text, and what is said of them.
struct Calibrating {
  private let source: ModelText
  private let common: CommonOptions
  private let isPlan: Bool
  private var plan: CalibrationPlan?
  private var settings = CalibrationOptions()
  private var model: Model { source.model }
  private var text: CalibrationText { source.text }
  /// For the record of the output.
  var record: JSON { source.record }

  init(
    _ options: CalibratingOptions, _ encoder: CalibrationOptions.Encoder, _ source: Checkpoint, _ common: CommonOptions, isPlan: Bool
  ) throws {
    self.source = try ModelText(options, source, common, threads: common.workers, isPlan: isPlan)
    (self.common, self.isPlan) = (common, isPlan)
    settings.encoder = encoder
  }

  /// Decides the codes of a job, or says what that would take.
  mutating func apply(
    to job: inout StreamJob, _ correction: CorrectionOptions, maximumMemory: Int?
  ) throws -> (Summary.Extra, [Correction]) {
    settings.correctionRank = correction.rank
    let packed = job.items.filter { $0.target.encoding.isPacked }
    plan = try CalibrationPlan(
      model, tokens: text.tokens, window: min(CalibrationOptions.window, try model.contextLength),
      packed: packed.reduce(0) { $0 + $1.target.encoding.storedBytes($1.target.dtype, $1.target.shape) },
      writes: text.source != "text", settings)
    if let limit = maximumMemory, let plan, plan.peakMemory > limit {
      throw NibbleError.usage(
        "--max-memory \(byteText(limit)): calibration takes about \(byteText(plan.peakMemory)) with \(text.tokens) tokens; fewer tokens take less")
    }
    if isPlan { return (Summary.calibrationPlan(plan, text), []) }
    let report = try job.calibrate(with: model, text.windows, settings, progress: common.progress("calibrate"))
    Progress.clear()
    job.warnings += report.warnings
    var summary = Summary.calibration(report, text, seconds: report.seconds + source.seconds, verbose: common.verbose)
    if correction.rank != nil { summary = summary + Summary.correction(report, correction.folder(beside: job.output.path)) }
    return (summary, report.corrections)
  }
}

extension Summary {
  /// What calibration is going to take.
  static func calibrationPlan(_ plan: CalibrationPlan?, _ text: CalibrationText) -> Extra {
    guard let plan else { return Extra() }
    return Extra(
      rows: [
        (
          "calibration",
          "\(text.tokens) tokens " + (text.source == "text" ? "of text" : "the model writes itself")
            + ", about \(decimal(plan.seconds / 60, 1)) min and \(byteText(plan.peakMemory)) of memory"
        )
      ],
      members: [
        (
          "calibration",
          [
            "source": JSON(text.source), "tokens": JSON(text.tokens), "seconds": JSON(plan.seconds),
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

  /// What calibration did.
  static func calibration(_ report: CalibrationReport, _ text: CalibrationText, seconds: Double, verbose: Bool) -> Extra {
    let all = report.certificates
    var rows: [(String, String)] = [
      (
        "calibrated",
        "\(report.taken) of \(all.count + report.unreached.count) packed tensors, with \(report.tokens) tokens "
          + (text.source == "text" ? "of text" : "the model wrote itself") + " in \(report.windows) windows, \(decimal(seconds, 1)) s"
      ),
      (
        "output error",
        "mean \(scientific(report.meanAfter)), \(scientific(report.meanBefore)) by mse, "
          + (all.first?.isHeldOut == true ? "on \(report.heldOut) tokens held out" : "on the text itself: too short to hold any out")
      ),
    ]
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
          [
            "source": JSON(text.source), "tokens": JSON(report.tokens), "windows": JSON(report.windows),
            "held_out_tokens": JSON(report.heldOut), "digest": JSON(text.digest), "calibrated_tensors": JSON(report.taken),
            "output_error": JSON(report.meanAfter), "output_error_mse": JSON(report.meanBefore), "seconds": JSON(seconds),
            "not_calibrated": JSON(report.unreached),
            "tensors": .array(
              all.map {
                [
                  "name": JSON($0.name), "tokens": JSON($0.tokens), "capped_tokens": JSON($0.capped),
                  "measured_tokens": JSON($0.measured), "held_out": JSON.bool($0.isHeldOut), "error_before": JSON($0.before),
                  "error_after": JSON($0.after), "target_moved": JSON($0.moved), "target_damping": JSON($0.damping), "target_share": JSON($0.share),
                  "calibrated": JSON.bool($0.isTaken),
                ]
              }),
          ]
        )
      ])
  }
}
