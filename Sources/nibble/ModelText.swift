import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// A model and the text its layers read.
struct ModelText {
  let model: Model
  let text: CalibrationText
  let seconds: Double
  /// For the record of the output.
  let record: JSON

  /// - Parameters:
  ///   - tokens: how many; nil for what the options say
  ///   - isPlan: whether a text of this length will do that the model did not write
  init(
    _ options: TextOptions, seed: UInt64 = 0, _ source: Checkpoint, _ common: CommonOptions, threads: Int, tokens: Int? = nil, isPlan: Bool = false
  ) throws {
    let started = monotonicSeconds()
    Calibration.prepare()
    let wanted = tokens ?? options.calibrationTokens
    model = try Model(source, precision: options.computeDtype, team: Team(threads: threads))
    let length = min(CalibrationOptions.window, try model.contextLength)
    var record: [(key: String, value: JSON)] = []
    if options.calibration.isEmpty {
      guard model.writesText else {
        throw NibbleError.usage("\(source.path) cannot write a text to calibrate with; --calibration FILE gives it one")
      }
      let reader = try ModelTokenizer(model, path: nil)
      if isPlan {
        text = CalibrationText(windows: Self.blank(wanted, length), source: "self-written")
      } else {
        text = try CalibrationText(
          writtenBy: model, from: try ChatOpening.beginnings(model, reader), tokens: wanted, seed: seed, ends: try model.endIDs,
          progress: common.progress("write text"))
        Progress.clear()
      }
      record = [("seed", JSON(Int(clamping: seed)))]
    } else {
      let reader = try CalibrationReader(model, length: length, tokens: wanted)
      text = CalibrationText(try options.calibration.flatMap(CalibrationReader.files).map { try reader.windows($0) }, tokens: wanted)
      guard text.tokens > 0 else { throw NibbleError.badInput("\(options.calibration[0]): no token to calibrate with") }
      if text.tokens < wanted, tokens == nil, !Arguments.given(["--calibration-tokens"]).isEmpty {
        common.warn([.init(.data, "the calibration text has \(text.tokens) tokens, fewer than the \(wanted) asked for")])
      }
    }
    self.record = .object(
      [("source", JSON(text.source)), ("tokens", JSON(text.tokens)), ("window", JSON(length))]
        + (options.computeDtype == .f32 ? [] : [("compute_dtype", JSON(options.computeDtype.rawValue))]) + record
        + [("digest", JSON(isPlan ? String(repeating: "0", count: 32) : text.digest))])
    seconds = monotonicSeconds() - started
  }

  private static func blank(_ tokens: Int, _ length: Int) -> [[Int]] {
    stride(from: 0, to: tokens, by: length).map { Array(repeating: 0, count: min(length, tokens - $0)) }
  }
}
