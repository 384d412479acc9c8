import NibbleCore

/// An orthonormal basis of the space that the rows of a matrix span: V, for an adapter's first factor the directions of the input
/// that it reads.
package struct RowBasis: Sendable {
  /// Vectors, at most as many as the matrix has rows.
  package let rank: Int
  package let columns: Int
  /// [columns, rank]: what each column contributes to each vector.
  package let byColumn: [Float]

  /// Gram and Schmidt, twice for good measure, in float64; rows that the others span are left out.
  ///
  /// - Parameter rows: [rank, columns]
  package init(_ rows: UnsafePointer<Float>, rank: Int, columns: Int) {
    let store = Scratch()
    let vectors = store.start(0, 8 * max(1, rank * columns)).bindMemory(to: Double.self, capacity: max(1, rank * columns))
    var found = 0
    for k in 0..<rank {
      let vector = vectors + found * columns
      for j in 0..<columns { vector[j] = Double(rows[k * columns + j]) }
      let before = Self.dot(vector, vector, columns)
      for _ in 0..<2 {
        for other in 0..<found {
          let from = vectors + other * columns
          let share = Self.dot(vector, from, columns)
          for j in 0..<columns { vector[j] -= share * from[j] }
        }
      }
      let left = Self.dot(vector, vector, columns)
      guard left > before * 1e-12, left > 0 else { continue }
      let scale = 1 / left.squareRoot()
      for j in 0..<columns { vector[j] *= scale }
      found += 1
    }
    var byColumn = [Float](repeating: 0, count: columns * found)
    for k in 0..<found { for j in 0..<columns { byColumn[j * found + k] = Float(vectors[k * columns + j]) } }
    (self.rank, self.columns, self.byColumn) = (found, columns, byColumn)
  }

  /// ⟨x, y⟩, eight sums at a time: one would wait for itself.
  package static func dot(_ x: UnsafePointer<Double>, _ y: UnsafePointer<Double>, _ count: Int) -> Double {
    var sums = SIMD8<Double>.zero
    let whole = count / 8 * 8
    for j in stride(from: 0, to: whole, by: 8) {
      let a = UnsafeRawPointer(x + j).loadUnaligned(as: SIMD8<Double>.self)
      sums += a * UnsafeRawPointer(y + j).loadUnaligned(as: SIMD8<Double>.self)
    }
    return (whole..<count).reduce(sums.sum()) { $0 + x[$1] * y[$1] }
  }
}
