import NibbleCompute
import NibbleCore
import NibbleQuant

/// Codes of one matrix from kept moments of what it takes: error feedback and descent towards the weight itself, for there is no packed
/// model whose errors could be made up for.
struct MomentCoder {
  private let moments: Moments
  private let tokens: Int
  private let factor: FeedbackFactor
  private let damped: FloatStore
  private let options: CalibrationOptions
  private let team: Team

  /// - Parameters:
  ///   - tokens: the moments were taken of
  ///   - place: for messages
  /// - Throws: `.quality` where no damping makes the moments positive definite
  init(_ moments: Moments, tokens: Int, _ options: CalibrationOptions, place: MessageText, _ team: Team) throws {
    (self.moments, self.tokens, self.options, self.team) = (moments, tokens, options, team)
    let isScarce = Double(tokens) < options.scarceTokens * Double(moments.inputs)
    factor = try FeedbackFactor(
      moments, damping: isScarce ? options.scarceDamping : options.damping, keepsOrder: options.encoder == .gptq, place: place, team)
    damped = factor.damped(spending: moments, team)
  }

  /// The codes, with the error of the outputs by the moments.
  ///
  /// - Parameters:
  ///   - weight: [outputs, inputs]
  ///   - base: the same without what is merged into it; nil where nothing is
  func code(
    _ weight: FloatStore, from base: FloatStore?, outputs: Int, _ goal: CalibrationPass.Target, _ task: (ScaleSearch) -> EncodingTask
  ) throws -> TensorCoder.Decision {
    let inputs = moments.inputs
    let rounded = try goal.codec.encoded(weight.start, task(.mse))
    guard let codec = goal.codec.withFeedback, options.encoder == .calibrated || codec is Int4Groups else {
      return TensorCoder.Decision(codes: rounded)
    }
    let isGPTQ = options.encoder == .gptq
    let feedback = ErrorFeedback(
      codec: codec, outputs: outputs, inputs: inputs, grid: try codec.searchedGrid(weight.start, task), takesRanges: isGPTQ,
      rounds: isGPTQ ? 0 : options.rounds)
    let codes = DecidedCodes(codec, sections: feedback.codes(of: weight, factor, damped: damped, team))
    let signal = max(Correction.energy(weight, damped, outputs: outputs, inputs: inputs, team), 1e-30)
    func left(_ codes: DecidedCodes) throws -> FloatStore {
      let values = try Matrix(codes, goal.dtype, rows: outputs, columns: inputs).values()
      for place in 0..<values.count { values.start[place] = weight.start[place] - values.start[place] }
      return values
    }
    func energy(_ values: FloatStore) -> Double { Correction.energy(values, damped, outputs: outputs, inputs: inputs, team) }
    func error(_ values: FloatStore) -> Double { energy(values) / signal }
    let (missed, other) = (try left(codes), try left(rounded))
    let (after, before) = (error(missed), error(other))
    let isTaken = after < before
    var decision = TensorCoder.Decision(codes: isTaken ? codes : rounded)
    var corrected: Double?
    if let rank = options.correctionRank {
      let correction = try Correction(
        module: goal.module, isTaken ? missed : other, outputs: outputs, inputs: inputs, hessian: damped, rank: rank, team)
      (decision.correction, corrected) = (correction, min(before, after) * (1 - correction.share))
    }
    decision.certificate = TensorCertificate(
      name: goal.name, tokens: tokens, capped: 0, measured: tokens, isHeldOut: false, before: before, after: after, moved: 0,
      damping: factor.damping, share: 0, isTaken: isTaken, corrected: corrected,
      change: base.map { base in
        // ⟨a, b⟩ = (‖a‖² + ‖b‖² − ‖a − b‖²) / 2, with a what the codes change, b what they were to change.
        let (rest, delta, made) = (isTaken ? missed : other, FloatStore(count: weight.count), FloatStore(count: weight.count))
        for place in 0..<weight.count {
          delta.start[place] = weight.start[place] - base.start[place]
          made.start[place] = delta.start[place] - rest.start[place]
        }
        let (wish, done, noise) = (energy(delta), energy(made), energy(rest))
        return ChangeSums(kept: (wish + done - noise) / 2, delta: wish, base: energy(base), noise: noise)
      })
    return decision
  }
}
