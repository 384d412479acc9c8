import NibbleCompute
import NibbleCore

/// DoRA, arXiv:2402.09353: the rows of W + scale · B · A scaled to trained lengths.
package enum DoRA {
  /// Rows of a weight that are held at once.
  private static let block = 64

  /// Lengths of the rows of W + scale · B · A, [outputs], a few rows of the stored matrix at a time.
  package static func norms(_ w: Matrix, _ term: ForwardTerm, _ engine: Engine) -> [Double] {
    // In float32, whatever the engine computes in.
    let engine = Engine(.f32, team: engine.team, variant: engine.variant)
    let (rows, columns) = (w.native.rows, w.native.columns)
    let rank = term.a.outputs
    // Stored rows are outputs: row o of the change is B[o] · A. Stored the other way, row i is A[:, i]ᵀ · Bᵀ.
    let left = w.isTransposed ? transposed(term.a) : values(term.b)
    let right = w.isTransposed ? term.b : term.a.turned
    let change = FloatStore(count: min(block, rows) * columns)
    let weight = FloatStore(count: columns)
    var squares = [Double](repeating: 0, count: w.outputs)
    for first in stride(from: 0, to: rows, by: block) {
      let count = min(block, rows - first)
      engine.multiply(left.start + first * rank, rows: count, stride: rank, [.init(right, change.start, stride: columns)])
      for row in 0..<count {
        w.rows(first + row..<first + row + 1, into: weight.start)
        LayerKernels.add(change.start + row * columns, scaledBy: term.scale, count: columns, to: weight.start)
        if w.isTransposed {
          for column in 0..<columns { squares[column] += Double(weight.start[column]) * Double(weight.start[column]) }
        } else {
          squares[first + row] = (0..<columns).reduce(0.0) { $0 + Double(weight.start[$1]) * Double(weight.start[$1]) }
        }
      }
    }
    return squares.map { $0.squareRoot() }
  }

  /// A factor as floats, as it is stored.
  private static func values(_ matrix: Matrix) -> FloatStore {
    let store = FloatStore(count: matrix.native.rows * matrix.native.columns)
    matrix.rows(0..<matrix.native.rows, into: store.start)
    return store
  }

  /// A factor as floats, rows for columns.
  private static func transposed(_ matrix: Matrix) -> FloatStore {
    let (rows, columns) = (matrix.native.rows, matrix.native.columns)
    let plain = values(matrix)
    let store = FloatStore(count: rows * columns)
    for row in 0..<rows { for column in 0..<columns { store.start[column * rows + row] = plain.start[row * columns + column] } }
    return store
  }
}
