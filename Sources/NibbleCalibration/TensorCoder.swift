import NibbleCompute
import NibbleCore
import NibbleQuant

/// Codes of the matrices of one step, and what they are worth.
struct TensorCoder {
  private let stage: Stage
  private let engine: Engine
  private let options: CalibrationOptions
  private let rules: EncodingRules
  private let pool: ScratchPool
  private let factor: FeedbackFactor
  private var team: Team { engine.team }

  init(
    _ stage: Stage, _ engine: Engine, _ options: CalibrationOptions, rules: EncodingRules, pool: ScratchPool, place: String
  ) throws {
    (self.stage, self.engine, self.options, self.rules, self.pool) = (stage, engine, options, rules, pool)
    let isScarce = Double(stage.tokens) < options.scarceTokens * Double(stage.moments.inputs)
    factor = try FeedbackFactor(
      stage.moments, damping: isScarce ? options.scarceDamping : options.damping, place: place, engine.team)
  }

  /// The codes of one matrix; a certificate where they are calibrated.
  func code(_ matrix: Matrix, _ target: CalibrationPass.Target) throws -> (codes: DecidedCodes, certificate: TensorCertificate?) {
    let (outputs, inputs) = (matrix.outputs, matrix.inputs)
    let weight = matrix.values()
    func task(_ search: ScaleSearch) -> EncodingTask {
      EncodingTask(
        target.dtype, [outputs, inputs], place: target.place, rules: rules, search: search, threads: team.threads, pool: pool,
        measures: false, memory: Scratch())
    }
    let rounded = try target.codec.encoded(weight.start, task(.mse))
    guard let codec = target.codec as? BlockCodec else { return (rounded, nil) }
    let wanted = Wanted(matrix, stage, engine)
    func error(_ codes: DecidedCodes) throws -> Double {
      wanted.error(try Matrix(codes, target.dtype, rows: outputs, columns: inputs), stage, engine)
    }
    let before = try error(rounded)
    let sections = try codec.searchedScales(weight.start, task(.mseSigned))
    let feedback = ErrorFeedback(
      codec: codec, outputs: outputs, inputs: inputs, scales: BlockScales(codec, sections, count: outputs * inputs),
      rounds: options.rounds)
    let drift = drift(weight, outputs)
    var best: (codes: DecidedCodes, after: Double, moved: Double)?
    for strength in strengths {
      let result = feedback.codes(of: weight.start, drift: drift.start, strength: strength, factor, team)
      let codes = DecidedCodes(codec, sections: result.sections)
      let after = try error(codes)
      if best == nil || after < best?.after ?? .infinity { best = (codes, after, result.moved) }
    }
    let signal = weight.values.reduce(0.0) { $0 + Double($1) * Double($1) }
    let isTaken = (best?.after ?? .nan) < before
    return (
      isTaken ? best?.codes ?? rounded : rounded,
      TensorCertificate(
        name: target.name, tokens: stage.tokens, capped: stage.capped, measured: stage.measured, isHeldOut: stage.isHeldOut,
        before: before, after: best?.after ?? .nan, moved: signal > 0 ? ((best?.moved ?? 0) / signal).squareRoot() : 0,
        isTaken: isTaken)
    )
  }

  /// How much of the target's move is tried.
  private var strengths: [Float] {
    Double(stage.tokens) >= options.ampleTokens * Double(stage.moments.inputs) ? [1] : [1, 0.5, 0]
  }

  /// E[e · x̂ᵀ], with e what the output lacks: of the moments themselves, or W times what inputs lack.
  private func drift(_ weight: FloatStore, _ outputs: Int) -> FloatStore {
    let moments = stage.moments
    let scale = Float(1 / max(moments.weight, 1e-30))
    let (inputs, isOfOutputs) = (moments.inputs, stage.isAdded)
    let drift = FloatStore(count: outputs * inputs)
    team.run(ceilDivide(outputs, 256)) { index, _ in
      let rows = index * 256..<min((index + 1) * 256, outputs)
      let to = drift.start + rows.lowerBound * inputs
      if isOfOutputs {
        for place in 0..<rows.count * inputs { to[place] = moments.drift.start[rows.lowerBound * inputs + place] * scale }
      } else {
        _ = BLAS.multiply(
          weight.start + rows.lowerBound * inputs, inputs, moments.drift.start, inputs, transposed: false, to, inputs,
          m: rows.count, n: inputs, k: inputs, alpha: scale)
      }
    }
    return drift
  }

  /// What a matrix is to give for the tokens it is measured on.
  private struct Wanted {
    /// W x + r − r̂ [tokens, outputs]
    private let outputs: FloatStore
    /// ‖W x‖²
    private let signal: Double

    init(_ matrix: Matrix, _ stage: Stage, _ engine: Engine) {
      let width = matrix.outputs
      outputs = FloatStore(count: stage.measured * width)
      let store = outputs
      stage.float.withUnsafeBufferPointer { x in
        guard let x = x.baseAddress else { return }
        engine.multiply(x, rows: stage.measured, stride: matrix.inputs, [Engine.Product(matrix, store.start, stride: width)])
      }
      signal = store.values.reduce(0.0) { $0 + Double($1) * Double($1) }
      for place in stage.residual.indices { store.start[place] += stage.residual[place] }
    }

    /// How far off a packed matrix is, relative to ‖W x‖².
    func error(_ packed: Matrix, _ stage: Stage, _ engine: Engine) -> Double {
      let width = packed.outputs
      let own = FloatStore(count: stage.measured * width)
      stage.packed.withUnsafeBufferPointer { x in
        guard let x = x.baseAddress else { return }
        engine.multiply(x, rows: stage.measured, stride: packed.inputs, [Engine.Product(packed, own.start, stride: width)])
      }
      var sum = 0.0
      for place in 0..<own.count {
        let difference = Double(own.start[place]) - Double(outputs.start[place])
        sum += difference * difference
      }
      return signal > 0 ? sum / signal : sum
    }
  }
}
