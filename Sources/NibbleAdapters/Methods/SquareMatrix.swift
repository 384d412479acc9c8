import NibbleCompute

/// A small square matrix in float64.
package struct SquareMatrix: Sendable {
  let size: Int
  /// Row by row.
  var values: [Double]

  init(_ size: Int, _ values: [Double]) { (self.size, self.values) = (size, values) }

  /// A multiple of the identity.
  init(_ size: Int, diagonal: Double) {
    self.init(size, [Double](repeating: 0, count: size * size))
    for i in 0..<size { values[i * size + i] = diagonal }
  }

  /// Float32 numbers, row by row.
  init(_ size: Int, _ start: UnsafePointer<Float>) { self.init(size, (0..<size * size).map { Double(start[$0]) }) }

  subscript(_ row: Int, _ column: Int) -> Double {
    get { values[row * size + column] }
    set { values[row * size + column] = newValue }
  }

  var transposed: SquareMatrix {
    var turned = self
    for i in 0..<size { for j in 0..<size { turned[j, i] = self[i, j] } }
    return turned
  }

  static func * (a: SquareMatrix, b: SquareMatrix) -> SquareMatrix {
    let n = a.size
    // Row by row it is the product of the transposes column by column.
    if n >= 12, let product = try? LAPACK.product(b.values, a.values, rows: n, inner: n, columns: n) { return SquareMatrix(n, product) }
    var c = SquareMatrix(n, diagonal: 0)
    c.values.withUnsafeMutableBufferPointer { c in
      for i in 0..<n {
        for k in 0..<n {
          let factor = a.values[i * n + k]
          guard factor != 0 else { continue }
          for j in 0..<n { c[i * n + j] += factor * b.values[k * n + j] }
        }
      }
    }
    return c
  }

  static func + (a: SquareMatrix, b: SquareMatrix) -> SquareMatrix { SquareMatrix(a.size, zip(a.values, b.values).map { $0 + $1 }) }
  static func - (a: SquareMatrix, b: SquareMatrix) -> SquareMatrix { SquareMatrix(a.size, zip(a.values, b.values).map { $0 - $1 }) }
  static func * (a: Double, b: SquareMatrix) -> SquareMatrix { SquareMatrix(b.size, b.values.map { a * $0 }) }

  /// By elimination with the greatest pivots; not finite where there is none.
  var inverse: SquareMatrix {
    let n = size
    var a = self, b = SquareMatrix(n, diagonal: 1)
    for column in 0..<n {
      let pivot = (column..<n).max { abs(a[$0, column]) < abs(a[$1, column]) } ?? column
      if pivot != column {
        for j in 0..<n {
          a.values.swapAt(pivot * n + j, column * n + j)
          b.values.swapAt(pivot * n + j, column * n + j)
        }
      }
      let factor = 1 / a[column, column]
      for j in 0..<n { (a[column, j], b[column, j]) = (a[column, j] * factor, b[column, j] * factor) }
      for i in 0..<n where i != column && a[i, column] != 0 {
        let other = a[i, column]
        for j in 0..<n { (a[i, j], b[i, j]) = (a[i, j] - other * a[column, j], b[i, j] - other * b[column, j]) }
      }
    }
    return b
  }
}

/// Cayley's map of a skew-symmetric Q to a rotation, R = (I − Q)(I + Q)⁻¹, or the first terms of its series as PEFT's OFT has them,
/// I + 2Q' + 2Q'² + … + Q'ᵏ with Q' in place of −Q, which are no rotation quite.
struct CayleyMap: Sendable {
  /// Terms of the series; nil for the map itself.
  let terms: Int?

  /// Of Q's powers, from 0: PEFT counts the last power once, and takes a third one as soon as it takes a second.
  private var coefficients: [Double] {
    guard let terms else { return [] }
    if terms < 3 { return terms < 2 ? [1] : [1, 2] }
    return [1, 2, 2] + [Double](repeating: 2, count: max(0, terms - 4)) + [1]
  }

  func rotation(_ q: SquareMatrix) -> SquareMatrix {
    let one = SquareMatrix(q.size, diagonal: 1)
    return terms == nil ? (one - q) * (one + q).inverse : sums(q)[0]
  }

  /// Σ over k from each index of cₖ · Q^(k − index).
  private func sums(_ q: SquareMatrix) -> [SquareMatrix] {
    let own = coefficients
    var sums = [SquareMatrix(q.size, diagonal: own[own.count - 1])]
    for factor in own.dropLast().reversed() { sums.insert(SquareMatrix(q.size, diagonal: factor) + q * sums[0], at: 0) }
    return sums
  }

  /// The gradient of Q's numbers, each by itself, from that of R.
  func back(_ q: SquareMatrix, _ dr: SquareMatrix) -> SquareMatrix {
    let one = SquareMatrix(q.size, diagonal: 1)
    guard terms != nil else {
      // δR = −(I + R) δQ (I + Q)⁻¹
      let inverse = (one + q).inverse
      return -1 * ((one + (one - q) * inverse).transposed * dr * inverse.transposed)
    }
    let sums = sums(q), turned = q.transposed
    var dq = SquareMatrix(q.size, diagonal: 0), dsum = dr
    for next in sums.dropFirst() {
      dq = dq + dsum * next.transposed
      dsum = turned * dsum
    }
    return dq
  }
}
