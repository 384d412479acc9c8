import NibbleCompute
import NibbleCore

/// What the codes of a weight are to come to: T = W + strength · G · (Ĥ + λI)⁻¹, which makes up for what the packed model lacks so far, as
/// far as the matrix's inputs tell. G = E[e · x̂ᵀ], with e what the packed model lacks of the output.
enum MovedTarget {
  private static let run = 256
  private enum Slot { static let drift = 41, half = 42 }

  /// G · (Ĥ + λI)⁻¹ [outputs, inputs]
  static func move(_ drift: FloatStore, outputs: Int, _ factor: FeedbackFactor, _ team: Team) -> FloatStore {
    let n = factor.order.count
    let values = FloatStore(count: outputs * n)
    let shared = Unchecked((values.start, drift.start))
    team.run(ceilDivide(outputs, run)) { index, scratch in
      let (values, drift) = shared.value
      let rows = index * run..<min((index + 1) * run, outputs)
      let lacks = scratch.floatStart(Slot.drift, rows.count * n), half = scratch.floatStart(Slot.half, rows.count * n)
      for row in 0..<rows.count {
        let line = drift + (rows.lowerBound + row) * n
        for (place, column) in factor.order.enumerated() { lacks[row * n + place] = line[column] }
      }
      // (Ĥ + λI)⁻¹ = Uᵀ · U.
      _ = BLAS.multiply(lacks, n, factor.factor.start, n, transposed: true, half, n, m: rows.count, n: n, k: n)
      _ = BLAS.multiply(half, n, factor.factor.start, n, transposed: false, lacks, n, m: rows.count, n: n, k: n)
      for row in 0..<rows.count {
        let line = values + (rows.lowerBound + row) * n
        for (place, column) in factor.order.enumerated() { line[column] = lacks[row * n + place] }
      }
    }
    return values
  }

  /// W + strength · move, and ‖strength · move‖².
  static func target(_ weight: FloatStore, _ move: FloatStore, strength: Float) -> (values: FloatStore, moved: Double) {
    let values = FloatStore(count: weight.count)
    var moved = 0.0
    for place in 0..<weight.count {
      let step = strength * move.start[place]
      moved += Double(step) * Double(step)
      values.start[place] = weight.start[place] + step
    }
    return (values, moved)
  }
}
