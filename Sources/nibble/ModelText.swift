import NibbleCalibration
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// A model and the text its layers read.
struct ModelText {
  let model: Model
  let text: CalibrationText
  /// Tokens of it that the model wrote.
  let own: Int
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
    let own = options.calibration.isEmpty ? wanted : Int(Double(wanted) * (options.ownText ?? 0))
    var text: CalibrationText?
    if own < wanted {
      let reader = try CalibrationReader(model, length: length, tokens: wanted - own)
      let read = CalibrationText(try options.calibration.flatMap(CalibrationReader.files).map { try reader.windows($0) }, tokens: wanted - own)
      guard read.tokens > 0 else { throw NibbleError.badInput("\(options.calibration[0]): no token to calibrate with") }
      if read.tokens < wanted - own, tokens == nil, !Arguments.given(["--calibration-tokens"]).isEmpty {
        common.warn([.init(.data, "the calibration text has \(read.tokens) tokens, fewer than the \(wanted - own) asked for")])
      }
      text = read
    }
    if own > 0 {
      let written = try Self.written(own, length, model, seed: seed, besides: text != nil, common, isPlan: isPlan)
      text = text.map { CalibrationText($0, and: written) } ?? written
      record = [("seed", JSON(Int(clamping: seed)))] + (own < wanted ? [("own_tokens", JSON(own))] : [])
    }
    (self.text, self.own) = (text ?? CalibrationText(windows: [], source: "text"), own)
    self.record = .object(
      [("source", JSON(self.text.source)), ("tokens", JSON(self.text.tokens)), ("window", JSON(length))]
        + (options.computeDtype == .f32 ? [] : [("compute_dtype", JSON(options.computeDtype.rawValue))]) + record
        + [("digest", JSON(isPlan ? String(repeating: "0", count: 32) : self.text.digest))])
    seconds = monotonicSeconds() - started
  }

  /// What it consists of, in words.
  var account: String {
    "\(text.tokens) tokens" + (own == 0 ? " of text" : own == text.tokens ? " the model wrote itself" : ", \(own) of them the model's own")
  }

  /// Text the model writes itself: conversations, where it has a template, and texts that begin freely.
  ///
  /// - Parameter besides: whether there is other text, which is free text enough
  private static func written(
    _ tokens: Int, _ length: Int, _ model: Model, seed: UInt64, besides: Bool, _ common: CommonOptions, isPlan: Bool
  ) throws -> CalibrationText {
    guard model.writesText else {
      throw NibbleError.usage("\(model.path) cannot write a text to calibrate with; --calibration FILE gives it one")
    }
    let reader = try ModelTokenizer(model, path: nil)
    if isPlan { return CalibrationText(windows: blank(tokens, length), source: "self-written") }
    let beginnings = try ChatOpening.beginnings(model, reader)
    let text = try CalibrationText(
      writtenBy: model, from: besides ? Array(beginnings.suffix(1)) : beginnings, tokens: tokens, seed: seed, ends: try model.endIDs,
      progress: common.progress("write text"))
    Progress.clear()
    return text
  }

  private static func blank(_ tokens: Int, _ length: Int) -> [[Int]] {
    stride(from: 0, to: tokens, by: length).map { Array(repeating: 0, count: min(length, tokens - $0)) }
  }
}
