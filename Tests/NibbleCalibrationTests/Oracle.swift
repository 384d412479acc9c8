import NibbleCore
import NibbleQuant
import TestSupport

@testable import NibbleCalibration

/// Error feedback as its definition has it: in float64, one row and one column at a time, with inverses by Gauss and Jordan.
struct Oracle {
  let inputs: Int
  /// Ĥ + λI
  let hessian: [[Double]]
  let order: [Int]

  /// - Parameter tokens: x̂ of each
  init(_ tokens: [[Double]], damping: Double) {
    let n = tokens[0].count
    var h = (0..<n).map { i in (0..<n).map { j in tokens.reduce(0) { $0 + $1[i] * $1[j] } / Double(tokens.count) } }
    let mean = (0..<n).reduce(0) { $0 + h[$1][$1] } / Double(n)
    order = (0..<n).sorted { (-h[$0][$0], $0) < (-h[$1][$1], $1) }
    for i in 0..<n { h[i][i] = (h[i][i] > 0 ? h[i][i] : mean) + damping * mean }
    (inputs, hessian) = (n, h)
  }

  static func inverse(_ matrix: [[Double]]) -> [[Double]] {
    let n = matrix.count
    var a = matrix
    var inverse = (0..<n).map { i in (0..<n).map { $0 == i ? 1.0 : 0 } }
    for i in 0..<n {
      let pivot = a[i][i]
      for j in 0..<n {
        a[i][j] /= pivot
        inverse[i][j] /= pivot
      }
      for row in 0..<n where row != i {
        let factor = a[row][i]
        for j in 0..<n {
          a[row][j] -= factor * a[i][j]
          inverse[row][j] -= factor * inverse[i][j]
        }
      }
    }
    return inverse
  }

  /// W + G (Ĥ + λI)⁻¹
  func target(_ weight: [[Double]], drift: [[Double]]) -> [[Double]] {
    let inverse = Self.inverse(hessian)
    return zip(weight, drift).map { row, lack in
      (0..<inputs).map { j in row[j] + (0..<inputs).reduce(0) { $0 + lack[$1] * inverse[$1][j] } }
    }
  }

  /// The values chosen for a target, column by column: after column j is rounded, the columns that are left move by what minimises
  /// the error over them, the inverse of Ĥ over what is left.
  func rounded(_ target: [[Double]], nearest: (_ value: Double, _ row: Int, _ column: Int) -> Double) -> [[Double]] {
    var t = target
    var left = order
    while let j = left.first {
      let inverse = Self.inverse(left.map { a in left.map { hessian[a][$0] } })
      for row in t.indices {
        let q = nearest(t[row][j], row, j)
        let error = (t[row][j] - q) / inverse[0][0]
        t[row][j] = q
        for (place, column) in left.enumerated().dropFirst() { t[row][column] -= error * inverse[0][place] }
      }
      left.removeFirst()
    }
    return t
  }

  /// tr((T − Q)(Ĥ + λI)(T − Q)ᵀ)
  func error(_ target: [[Double]], _ values: [[Double]]) -> Double {
    zip(target, values).reduce(0) { sum, rows in
      let d = zip(rows.0, rows.1).map { $0 - $1 }
      return sum + (0..<inputs).reduce(0) { sum, i in sum + d[i] * (0..<inputs).reduce(0) { $0 + hessian[i][$1] * d[$1] } }
    }
  }
}
