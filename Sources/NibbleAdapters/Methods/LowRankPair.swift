import NibbleCompute
import NibbleCore

/// Two thin factors of a change: D = scale · B · A.
package struct LowRankPair: Sendable {
  /// [rank, inputs]
  package var a: Matrix
  /// [outputs, rank]
  package var b: Matrix
  package var scale: Double
  /// Whether A and B are the transposes of the parts B and A, where these lie.
  package private(set) var isTurned = false

  package init(a: Matrix, b: Matrix, scale: Double) { (self.a, self.b, self.scale) = (a, b, scale) }

  /// Of the factors of a weight's transpose, B · A = Wᵀ.
  init(turning a: Matrix, _ b: Matrix, scale: Double) {
    (self.a, self.b, self.scale, isTurned) = (b.turned, a.turned, scale, true)
  }

  package var rank: Int { a.outputs }

  /// A and B as numbers, row by row.
  package var values: (a: [Float], b: [Float]) { (Self.values(a), Self.values(b)) }

  /// Whether the product is zero for every input because B is.
  var isZero: Bool { scale == 0 || Self.values(b).allSatisfy { $0 == 0 } }

  /// Adds scale · B · A to a weight [outputs, inputs].
  package func add(to weight: FloatStore, _ team: Team) {
    let (change, columns) = (LowRankChange(LowRankFactors(self), rowsAreOutputs: true), a.inputs)
    let rows = max(1, (1 << 16) / max(columns, 1))
    let shared = Unchecked(weight.start)
    team.run(ceilDivide(b.outputs, rows)) { index, scratch in
      let start = index * rows * columns, count = min(rows, b.outputs - index * rows) * columns
      let delta = scratch.floatStart(AdapterSlot.added, count), own = shared.value + start
      change.delta(own, start, count, into: delta)
      for place in 0..<count { own[place] += delta[place] }
    }
  }

  private static func values(_ matrix: Matrix) -> [Float] {
    let stored = [Float](unsafeUninitializedCapacity: matrix.inputs * matrix.outputs) { buffer, count in
      if let start = buffer.baseAddress { matrix.rows(0..<matrix.native.rows, into: start) }
      count = buffer.count
    }
    return matrix.isTransposed ? transposed(stored, rows: matrix.native.rows, columns: matrix.native.columns) : stored
  }

  /// What an engine adds to some rows of a product, weighed.
  package func term(weight: Float = 1, rows: Range<Int>) -> Engine.LowRankTerm {
    Engine.LowRankTerm(a: a, b: b, scale: Float(scale) * weight, rows: rows)
  }

  /// The same of the gradient of z, for that of x: scale · dz · B · A.
  package func termBack(rows: Range<Int>) -> Engine.LowRankTerm {
    Engine.LowRankTerm(a: b.turned, b: a.turned, scale: Float(scale), rows: rows)
  }
}

extension AdapterMethod {
  /// The pair, where it is two of the method's parts and all that the method does.
  package var barePair: LowRankPair? {
    guard let pair, !pair.isTurned, !Self.folds, Self.isSum, undropped == nil, term == nil, pooled == nil, bias == nil else { return nil }
    return pair
  }
}

extension PartGradients {
  /// Where the gradients of such a pair go.
  package var ofPair: (a: UnsafeMutablePointer<Float>?, b: UnsafeMutablePointer<Float>?) { (self[LoRA.first]?.start, self[LoRA.second]?.start) }
}

/// Slots of a pass's scratch that belong to adapters; the pass's own are below 20.
package enum AdapterSlot {
  static let low = 20, lowGradient = 21, inputGradient = 22, tableLow = 23, tableSums = 24, tableLowGradient = 25
  package static let dropped = 26, tokens = 27
  static let foldedFirst = 28, foldedSecond = 29, foldedUndropped = 30
  package static let restored = 31
  static let term = 40, termTurned = 41, termOutput = 42
  package static let inputGradientInHand = 43, changed = 44, unused = 45
  static let pooled = 32, summed = 33, added = 34
}

/// A pair by itself, forward and backward: with dropout its x differs from the layer's, and gradients always need it by itself.
/// u = scale · x · Aᵀ, z = u · Bᵀ.
package struct PairPass {
  let pair: LowRankPair
  let rows: Int
  /// Of float32: so are adapters.
  let engine: Engine
  let scratch: Scratch

  typealias Floats = UnsafeMutablePointer<Float>

  package init(_ pair: LowRankPair, rows: Int, _ engine: Engine, _ scratch: Scratch) {
    (self.pair, self.rows, self.engine, self.scratch) = (pair, rows, engine, scratch)
  }

  /// scale · x · Aᵀ
  private func low(_ x: UnsafePointer<Float>) -> Floats {
    let u = scratch.floatStart(AdapterSlot.low, rows * pair.rank)
    engine.multiply(x, rows: rows, stride: pair.a.inputs, [.init(pair.a, u, stride: pair.rank)])
    let scale = Float(pair.scale)
    for i in 0..<rows * pair.rank { u[i] *= scale }
    return u
  }

  /// out += z
  package func add(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>, stride: Int) {
    engine.multiply(low(x), rows: rows, stride: pair.rank, [.init(pair.b, out, stride: stride, adds: true)])
  }

  /// Adds to the gradients of the numbers that `method` makes the pair of. Leaves du for `inputGradient`.
  ///
  /// - Parameters:
  ///   - x: what the pair took
  ///   - restored: what dropout took of the input, of methods that have a pair for it
  package func backward(
    _ dz: UnsafePointer<Float>, stride: Int, _ x: UnsafePointer<Float>, restored: UnsafePointer<Float>? = nil,
    of method: any AdapterMethod, _ gradients: PartGradients
  ) {
    guard type(of: method).folds else {
      let (a, b) = gradients.ofPair
      return pair.isTurned ? backward(dz, stride: stride, x, a: b, b: a) : backward(dz, stride: stride, x, a: a, b: b)
    }
    func zeros(_ slot: Int, _ count: Int) -> Floats {
      let start = scratch.floatStart(slot, count)
      start.update(repeating: 0, count: count)
      return start
    }
    let folded = PairGradients(
      a: zeros(AdapterSlot.foldedFirst, pair.rank * pair.a.inputs), b: zeros(AdapterSlot.foldedSecond, pair.b.outputs * pair.rank),
      undropped: restored.map { _ in zeros(AdapterSlot.foldedUndropped, pair.rank * pair.a.inputs) })
    if let restored, let own = method.undropped {
      PairPass(own, rows: rows, engine, scratch).backward(dz, stride: stride, restored, a: folded.undropped, b: folded.b)
    }
    backward(dz, stride: stride, x, a: folded.a, b: folded.b)
    method.foldBack(folded, to: gradients)
  }

  /// With du = dz · B: dB += dzᵀ · u, dA += scale · duᵀ · x; of factors that are turned, both turned.
  private func backward(_ dz: UnsafePointer<Float>, stride: Int, _ x: UnsafePointer<Float>, a: Floats?, b: Floats?) {
    let (rank, outputs, inputs) = (pair.rank, pair.b.outputs, pair.a.inputs)
    let u = low(x), du = scratch.floatStart(AdapterSlot.lowGradient, rows * rank)
    engine.multiply(dz, rows: rows, stride: stride, [.init(pair.b.turned, du, stride: rank)])
    if pair.isTurned {
      if let b { engine.addWeightGradient(u, stride: rank, outputs: rank, dz, stride: stride, inputs: outputs, rows: rows, to: b) }
      if let a {
        engine.addWeightGradient(
          x, stride: inputs, outputs: inputs, du, stride: rank, inputs: rank, rows: rows, scale: Float(pair.scale), to: a)
      }
      return
    }
    if let b {
      engine.addWeightGradient(dz, stride: stride, outputs: outputs, u, stride: rank, inputs: rank, rows: rows, to: b)
    }
    if let a {
      engine.addWeightGradient(
        du, stride: rank, outputs: rank, x, stride: inputs, inputs: inputs, rows: rows, scale: Float(pair.scale), to: a)
    }
  }

  /// du · A, in memory that holds until the next pair. What it is for is `scale` times that.
  package func inputGradient() -> UnsafeMutablePointer<Float> {
    let dx = scratch.floatStart(AdapterSlot.inputGradient, rows * pair.a.inputs)
    let du = scratch.floatStart(AdapterSlot.lowGradient, rows * pair.rank)
    engine.multiply(du, rows: rows, stride: pair.rank, [.init(pair.a.turned, dx, stride: pair.a.inputs)])
    return dx
  }
}
