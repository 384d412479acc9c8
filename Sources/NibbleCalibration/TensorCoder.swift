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
  /// That of error feedback, and others with stronger damping that targets are tried with.
  private let factors: [FeedbackFactor]
  private let damped: FloatStore
  private var team: Team { engine.team }

  init(
    _ stage: Stage, _ engine: Engine, _ options: CalibrationOptions, rules: EncodingRules, pool: ScratchPool, place: MessageText
  ) throws {
    (self.stage, self.engine, self.options, self.rules, self.pool) = (stage, engine, options, rules, pool)
    let isScarce = Double(stage.tokens) < options.scarceTokens * Double(stage.moments.inputs)
    let isGPTQ = options.encoder == .gptq
    let damping = isScarce && !isGPTQ ? options.scarceDamping : options.damping
    var factors = [try FeedbackFactor(stage.moments, damping: damping, keepsOrder: isGPTQ, place: place, engine.team)]
    if stage.isHeldOut, !isGPTQ {
      let all = stage.isAdded ? options.exitDampings : options.entryDampings
      for times in stage.moments.inputs <= options.widestTried ? all[...] : all.prefix(1) {
        factors.append(try FeedbackFactor(stage.moments, damping: times * damping, place: place, engine.team))
      }
    }
    self.factors = factors
    damped = factors[0].damped(spending: stage.moments, engine.team)
  }

  /// What was decided of one matrix.
  struct Decision {
    var codes: DecidedCodes
    /// Where the codes are calibrated.
    var certificate: TensorCertificate?
    var correction: Correction?
    /// Of codes that are not calibrated: whether their scales were searched for by what inputs are, which needs one that is not always 0.
    var isWeighed = true
  }

  /// The codes of one matrix, a certificate where they are calibrated, and the correction that was asked for.
  func code(_ matrix: Matrix, _ goal: CalibrationPass.Target) throws -> Decision {
    let (outputs, inputs) = (matrix.outputs, matrix.inputs)
    let weight = matrix.values()
    let energies = stage.moments.diagonal
    let importance = goal.codec.takesImportance && energies.contains { $0 > 0 } ? energies : nil
    func task(_ search: ScaleSearch) -> EncodingTask {
      var task = EncodingTask(
        goal.dtype, [outputs, inputs], place: goal.place, rules: rules, search: search, threads: team.threads, pool: pool,
        measures: false, memory: Scratch())
      task.importance = importance
      return task
    }
    let rounded = try goal.codec.encoded(weight.start, task(.mse))
    guard let codec = goal.codec.withFeedback, options.encoder == .calibrated || codec is Int4Groups else {
      return Decision(codes: rounded, isWeighed: importance != nil)
    }
    let wanted = Wanted(matrix, stage, engine)
    func error(_ codes: DecidedCodes) throws -> Double {
      wanted.error(try Matrix(codes, goal.dtype, rows: outputs, columns: inputs), stage, engine)
    }
    let before = try error(rounded)
    // Blocks that hold no numbers: no codes mend them, and what comes next says so.
    guard before.isFinite else { return Decision(codes: rounded, isWeighed: importance != nil) }
    let (move, strength, damping) = options.encoder == .gptq ? (weight, 0, factors[0].damping) : move(matrix, weight, wanted)
    let target = MovedTarget.target(weight, move, strength: strength)
    let feedback = ErrorFeedback(
      codec: codec, outputs: outputs, inputs: inputs, grid: try codec.searchedGrid(target.values.start, task),
      takesRanges: options.encoder == .gptq, rounds: options.encoder == .gptq ? 0 : options.rounds)
    let codes = DecidedCodes(codec, sections: feedback.codes(of: target.values, factors[0], damped: damped, team))
    let after = try error(codes)
    let signal = weight.squares
    let isTaken = after < before
    var decision = Decision(codes: isTaken ? codes : rounded)
    var corrected: Double?
    if let rank = options.correctionRank {
      let found = try correct(decision.codes, target.values, goal, outputs, inputs, rank)
      let left = wanted.error(found.matrix, stage, engine)
      // One that helps the text's tokens and not those held out is none.
      if left < min(before, after) { (decision.correction, corrected) = (found.correction, left) }
    }
    decision.certificate = TensorCertificate(
      name: goal.name, tokens: stage.tokens, capped: stage.capped, measured: stage.measured, isHeldOut: stage.isHeldOut, before: before,
      after: after, moved: signal > 0 ? (target.moved / signal).squareRoot() : 0, damping: damping, share: Double(strength), isTaken: isTaken,
      corrected: corrected,
      change: try goal.base.map { base in
        try wanted.change(base, by: matrix, to: Matrix(decision.codes, goal.dtype, rows: outputs, columns: inputs), stage, engine)
      })
    return decision
  }

  /// Two factors for what codes leave of a target, and the weight with both.
  private func correct(
    _ codes: DecidedCodes, _ target: FloatStore, _ goal: CalibrationPass.Target, _ outputs: Int, _ inputs: Int, _ rank: Int
  ) throws -> (correction: Correction, matrix: Matrix) {
    let packedMatrix = try Matrix(codes, goal.dtype, rows: outputs, columns: inputs), packed = packedMatrix.values()
    let left = FloatStore(count: outputs * inputs)
    for place in 0..<left.count { left.start[place] = target.start[place] - packed.start[place] }
    let correction = try Correction(
      module: goal.module, left, outputs: outputs, inputs: inputs, hessian: damped, rank: rank, team)
    return (correction, try correction.added(to: packedMatrix))
  }

  /// How the target moves: by the damping, and as far, as serves tokens that were held out best. What earlier codes did is not all to be
  /// made up for: what moments of a few tokens say of it is partly chance.
  private func move(_ matrix: Matrix, _ weight: FloatStore, _ wanted: Wanted) -> (move: FloatStore, strength: Float, damping: Double) {
    let outputs = matrix.outputs, inputs = matrix.inputs
    let drift = drift(weight, outputs)
    func isFinite(_ move: FloatStore) -> Bool { LayerKernels.allFinite(move.start, count: move.count) }
    let still = (move: weight, strength: Float(0), damping: factors[0].damping)
    guard stage.isHeldOut else {
      let isAmple = Double(stage.tokens) >= options.ampleTokens * Double(inputs)
      let move = MovedTarget.move(drift, outputs: outputs, factors[0], team)
      return isAmple && isFinite(move) ? (move, 1, factors[0].damping) : still
    }
    let lack = wanted.lack(matrix, stage, engine)
    var best: (move: FloatStore, strength: Float, damping: Double, gain: Double)?
    for factor in factors {
      let move = MovedTarget.move(drift, outputs: outputs, factor, team)
      guard isFinite(move),
        let step = Matrix(.f32, rows: outputs, columns: inputs, UnsafeRawBufferPointer(move.values), owner: move)
      else { continue }
      let made = Wanted.product(step, stage.packed, stage, engine)
      var along = 0.0, square = 0.0
      for place in 0..<made.count {
        along += Double(made.start[place]) * Double(lack.start[place])
        square += Double(made.start[place]) * Double(made.start[place])
      }
      let strength = square > 0 ? min(max(along / square, 0), 1) : 0
      let gain = strength * (2 * along - strength * square)
      if gain.isFinite, gain > best?.gain ?? -.infinity { best = (move, Float(strength), factor.damping, gain) }
    }
    return best.map { ($0.move, $0.strength, $0.damping) } ?? still
  }

  /// E[e · x̂ᵀ], with e what the output lacks: of the moments themselves, or W times what inputs lack.
  private func drift(_ weight: FloatStore, _ outputs: Int) -> FloatStore {
    let moments = stage.moments
    let scale = Float(1 / max(moments.weight, 1e-30))
    let (inputs, isOfOutputs, inverse) = (moments.inputs, stage.isAdded, stage.inverseSlopes)
    let drift = FloatStore(count: outputs * inputs)
    team.run(ceilDivide(outputs, 256)) { index, _ in
      let rows = index * 256..<min((index + 1) * 256, outputs)
      let to = drift.start + rows.lowerBound * inputs
      if isOfOutputs {
        for row in rows {
          let factor = scale * (inverse?[row] ?? 1)
          for place in row * inputs..<(row + 1) * inputs { drift.start[place] = moments.drift.start[place] * factor }
        }
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
      outputs = Self.product(matrix, stage.float, stage, engine)
      signal = outputs.squares
      for place in stage.residual.indices { outputs.start[place] += stage.residual[place] }
    }

    /// What a matrix makes of the tokens, as it comes into the residual stream where it is added to that.
    static func product(_ matrix: Matrix, _ x: [Float], _ stage: Stage, _ engine: Engine) -> FloatStore {
      let store = FloatStore(count: stage.measured * matrix.outputs)
      x.withUnsafeBufferPointer { x in
        guard let x = x.baseAddress else { return }
        engine.multiply(
          x, rows: stage.measured, stride: matrix.inputs, [Engine.Product(matrix, store.start, stride: matrix.outputs)])
      }
      if let slopes = stage.slopes { store.multiplyColumns(by: slopes) }
      return store
    }

    /// What a matrix lacks.
    func lack(_ matrix: Matrix, _ stage: Stage, _ engine: Engine) -> FloatStore {
      let own = Self.product(matrix, stage.packed, stage, engine)
      for place in 0..<own.count { own.start[place] = outputs.start[place] - own.start[place] }
      return own
    }

    /// What a packed matrix, given what it takes in the packed model, makes of a change of the float one's outputs.
    func change(_ base: Matrix, by changed: Matrix, to packed: Matrix, _ stage: Stage, _ engine: Engine) -> ChangeSums {
      let (from, wish) = (Self.product(base, stage.float, stage, engine), Self.product(changed, stage.float, stage, engine))
      let lack = lack(packed, stage, engine)
      var sums = ChangeSums()
      for place in 0..<from.count {
        let (own, missed) = (Double(from.start[place]), Double(lack.start[place]))
        let delta = Double(wish.start[place]) - own
        sums += ChangeSums(kept: (delta - missed) * delta, delta: delta * delta, base: own * own, noise: missed * missed)
      }
      return sums
    }

    /// How far off a packed matrix is, relative to ‖W x‖².
    func error(_ packed: Matrix, _ stage: Stage, _ engine: Engine) -> Double {
      let sum = lack(packed, stage, engine).squares
      return signal > 0 ? sum / signal : sum
    }
  }
}

extension FloatStore {
  /// Multiplies the columns of [rows, factors].
  func multiplyColumns(by factors: [Float]) {
    for start in stride(from: 0, to: count, by: max(factors.count, 1)) {
      for (column, factor) in factors.enumerated() { self.start[start + column] *= factor }
    }
  }

  /// Σx²
  fileprivate var squares: Double {
    var sum = 0.0
    for place in 0..<count { sum += Double(start[place]) * Double(start[place]) }
    return sum
  }
}
