import NibbleCompute
import NibbleCore

/// DoRA, arXiv:2402.09353: the rows of W + scale · B · A scaled to trained lengths.
package enum DoRA {
  /// Lengths of the rows of W + scale · B · A, [outputs], without forming B · A:
  /// ‖w + s·b·A‖² = ‖w‖² + 2s·b·(A·w) + s²·bᵀ(A·Aᵀ)b for row w and its row b of B.
  package static func norms(_ w: Matrix, _ term: ForwardTerm, _ engine: Engine) -> [Double] {
    let rank = term.a.outputs
    let (inputs, outputs) = (w.inputs, w.outputs)
    let a = values(term.a)
    let b = values(term.b)
    let products = FloatStore(count: rank * outputs)
    let (aStart, bStart, start) = (a.start, b.start, products.start)
    // A · Wᵀ in float32, whatever the engine computes in.
    Engine(.f32, team: engine.team, variant: engine.variant)
      .multiply(aStart, rows: rank, stride: inputs, [.init(w, start, stride: outputs)])
    var gram = [Double](repeating: 0, count: rank * rank)
    for i in 0..<rank {
      for j in 0..<rank {
        gram[i * rank + j] = (0..<inputs).reduce(0.0) { $0 + Double(aStart[i * inputs + $1]) * Double(aStart[j * inputs + $1]) }
      }
    }
    let scale = Double(term.scale)
    let squares = squaredLengths(w)
    return (0..<outputs).map { output in
      var cross = 0.0
      var own = 0.0
      for i in 0..<rank {
        let bi = Double(bStart[output * rank + i])
        cross += bi * Double(start[i * outputs + output])
        for j in 0..<rank { own += bi * Double(bStart[output * rank + j]) * gram[i * rank + j] }
      }
      return max(squares[output] + 2 * scale * cross + scale * scale * own, 0).squareRoot()
    }
  }

  /// A small matrix as floats.
  private static func values(_ matrix: Matrix) -> FloatStore {
    let store = FloatStore(count: matrix.outputs * matrix.inputs)
    matrix.rows(0..<matrix.native.rows, into: store.start)
    return store
  }

  private static func squaredLengths(_ w: Matrix) -> [Double] {
    var squares = [Double](repeating: 0, count: w.outputs)
    let columns = w.native.columns
    let row = FloatStore(count: columns)
    let start = row.start
    for index in 0..<w.native.rows {
      w.rows(index..<index + 1, into: start)
      if w.isTransposed {
        for column in 0..<columns { squares[column] += Double(start[column]) * Double(start[column]) }
      } else {
        squares[index] = (0..<columns).reduce(0.0) { $0 + Double(start[$1]) * Double(start[$1]) }
      }
    }
    return squares
  }
}
