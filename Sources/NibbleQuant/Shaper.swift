import CNibbleKernels
import NibbleCore

/// Packs a changed matrix so that its change survives: adapter-aware rounding that needs neither the original weights nor data.
///
/// Rounding errors are worst where the adapter reads its input: in the row space of A. So the error of each row in those directions
/// is carried from column to column, and each column's code is chosen for the value shifted by what makes up for it best.
/// With V [columns, r] an orthonormal basis of A's row space, S = VᵀV over the columns not yet written and g = (I/c + S)⁻¹ v_j,
/// a code is nearest((t + carried · g) / scale), and carried += (t − value) · v_j.
package struct Shaper: Sendable {
  /// Solving for every column takes the square of the rank.
  package static let mostRanks = 512
  private let columns: Int
  private let rank: Int
  private let basis: [Float]
  private var gains: [Float]
  private let codebook: [Float]
  private let numbers: [UInt8]
  private let thresholds: [Float]
  private let zero: Int
  private let blockSize: Int

  /// - Parameters:
  ///   - right: [rank, columns], what spans the row space
  package init(_ codec: BlockCodec, right: UnsafePointer<Float>, rank: Int, columns: Int) {
    let space = RowBasis(right, rank: rank, columns: columns)
    (self.columns, self.rank, basis) = (columns, space.rank, space.byColumn)
    let sorted = codec.codebook.values.enumerated().sorted { ($0.element, $0.offset) < ($1.element, $1.offset) }
    codebook = sorted.map(\.element)
    numbers = sorted.map { UInt8($0.offset) }
    thresholds = (0..<15).map { Float((Double(sorted[$0].element) + Double(sorted[$0 + 1].element)) / 2) }
    zero = sorted.firstIndex { $0.element == 0 } ?? 7
    blockSize = codec.blockSize
    gains = [Float](repeating: 0, count: basis.count)
  }

  /// The same, making up for carried errors.
  ///
  /// - Parameter strength: c: how much of a carried error is made up for at once, against the noise that adds; 0 is plain rounding
  package func compensating(_ strength: Double) -> Shaper {
    var shaper = self
    shaper.gains = Self.gains(basis, rank: rank, columns: columns, strength: strength)
    return shaper
  }

  /// g of every column. S shrinks by one column at a time, and with it (I/c + S) changes by a product of vectors, so its inverse P
  /// is brought up to date with P += (P v)(P v)ᵀ / (1 − v · P v), and made anew from time to time.
  private static func gains(_ basis: [Float], rank: Int, columns: Int, strength: Double) -> [Float] {
    guard rank > 0 else { return [] }
    var sums = [Double](repeating: 0, count: rank * rank)
    for k in 0..<rank { sums[k * rank + k] = 1 / strength }
    func add(_ sign: Double, _ j: Int) {
      for a in 0..<rank {
        let factor = sign * Double(basis[j * rank + a])
        for b in 0..<rank { sums[a * rank + b] += factor * Double(basis[j * rank + b]) }
      }
    }
    for j in 0..<columns { add(1, j) }
    var inverse: [Double] = []
    var gains = [Float](repeating: 0, count: columns * rank)
    var gain = [Double](repeating: 0, count: rank)
    for j in 0..<columns {
      if j % 64 == 0 { inverse = inverted(sums, rank) }
      for a in 0..<rank { gain[a] = (0..<rank).reduce(0) { $0 + inverse[a * rank + $1] * Double(basis[j * rank + $1]) } }
      for a in 0..<rank { gains[j * rank + a] = Float(gain[a]) }
      let left = 1 - (0..<rank).reduce(0) { $0 + gain[$1] * Double(basis[j * rank + $1]) }
      add(-1, j)
      guard left > 1e-9 else {
        inverse = inverted(sums, rank)
        continue
      }
      for a in 0..<rank { for b in 0..<rank { inverse[a * rank + b] += gain[a] * gain[b] / left } }
    }
    return gains
  }

  /// The inverse of a symmetric positive matrix, by Gauss and Jordan.
  private static func inverted(_ matrix: [Double], _ n: Int) -> [Double] {
    var a = matrix
    var inverse = [Double](repeating: 0, count: n * n)
    for i in 0..<n { inverse[i * n + i] = 1 }
    for i in 0..<n {
      let pivot = 1 / a[i * n + i]
      for j in 0..<n {
        a[i * n + j] *= pivot
        inverse[i * n + j] *= pivot
      }
      for row in 0..<n where row != i {
        let factor = a[row * n + i]
        guard factor != 0 else { continue }
        for j in 0..<n {
          a[row * n + j] -= factor * a[i * n + j]
          inverse[row * n + j] -= factor * inverse[i * n + j]
        }
      }
    }
    return inverse
  }

  /// Packs whole rows.
  ///
  /// - Parameters:
  ///   - t: [rows, columns], the values wanted; the first is element `element` of the matrix
  ///   - scales: of the whole matrix
  ///   - codes: room for a byte an element; the first half holds the codes afterwards
  ///   - values: gets what the codes decode to
  /// - Returns: the squared rounding error in the row space
  package func pack(
    _ t: UnsafePointer<Float>, element: Int, rows: Int, scales: UnsafePointer<Float>, codes: UnsafeMutablePointer<UInt8>,
    values: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) -> Double {
    var carried = [Float](repeating: 0, count: max(1, rows * rank))
    let scratch = Scratch()
    basis.withUnsafeBufferPointer { basis in
      gains.withUnsafeBufferPointer { gains in
        codebook.withUnsafeBufferPointer { codebook in
          thresholds.withUnsafeBufferPointer { thresholds in
            numbers.withUnsafeBufferPointer { numbers in
              var plan = nibble_shaping(
                columns: columns, rank: rank, basis: basis.baseAddress, gains: gains.baseAddress, codebook: codebook.baseAddress,
                thresholds: thresholds.baseAddress, numbers: numbers.baseAddress, zero: CInt(zero), scales: scales,
                block: blockSize)
              nibble_shape(
                variant.native, &plan, t, element, rows, codes, values, &carried, scratch.start(0, nibble_shape_scratch(rank)))
            }
          }
        }
      }
    }
    return carried.prefix(rows * rank).reduce(0) { $0 + Double($1) * Double($1) }
  }
}
