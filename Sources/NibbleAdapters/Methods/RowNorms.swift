import NibbleCompute
import NibbleCore

/// Lengths of the rows of a weight, with a change or without.
package enum RowNorms {
  /// Rows of a weight that are held at once.
  private static let block = 64

  /// ‖W[o] + scale · B[o] · A‖ for every output o.
  package static func norms(_ w: Matrix, adding pair: LowRankPair? = nil, _ engine: Engine) -> [Double] {
    squares(w, adding: pair, engine).map { $0.squareRoot() }
  }

  /// Their squares, a few rows of the stored matrix at a time.
  package static func squares(_ w: Matrix, adding pair: LowRankPair? = nil, _ engine: Engine) -> [Double] {
    // In float32, whatever the engine computes in.
    let engine = Engine(.f32, team: engine.team, variant: engine.variant)
    let (rows, columns) = (w.native.rows, w.native.columns)
    // Stored rows are outputs: row o of the change is B[o] · A. Stored the other way, row i is A[:, i]ᵀ · Bᵀ.
    let change = pair.map { pair in
      (
        left: w.isTransposed ? transposed(pair.a) : values(pair.b), right: w.isTransposed ? pair.b : pair.a.turned,
        rows: FloatStore(count: min(block, rows) * columns)
      )
    }
    let weight = FloatStore(count: columns)
    var squares = [Double](repeating: 0, count: w.outputs)
    for first in stride(from: 0, to: rows, by: block) {
      let count = min(block, rows - first)
      if let change, let rank = pair?.rank {
        engine.multiply(
          change.left.start + first * rank, rows: count, stride: rank, [.init(change.right, change.rows.start, stride: columns)])
      }
      for row in 0..<count {
        w.rows(first + row..<first + row + 1, into: weight.start)
        if let change, let scale = pair?.scale {
          LayerKernels.add(change.rows.start + row * columns, scaledBy: scale, count: columns, to: weight.start)
        }
        if w.isTransposed {
          for column in 0..<columns { squares[column] += Double(weight.start[column]) * Double(weight.start[column]) }
        } else {
          squares[first + row] = (0..<columns).reduce(0.0) { $0 + Double(weight.start[$1]) * Double(weight.start[$1]) }
        }
      }
    }
    return squares
  }

  /// A factor as floats, as it is stored.
  static func values(_ matrix: Matrix) -> FloatStore {
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
