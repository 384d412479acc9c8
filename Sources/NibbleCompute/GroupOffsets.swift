import NibbleCore

/// Numbers that are added to all of a group along the rows of a matrix: W[r, c] = stored + offset[r, c / length]. A product of x with them
/// is one of the sums of x over groups, and so costs next to nothing.
final class GroupOffsets: Sendable {
  /// Elements of a group.
  let length: Int
  /// [rows, groups]
  let matrix: Matrix

  init(_ offsets: FloatStore, rows: Int, length: Int) {
    self.length = length
    let groups = offsets.count / max(rows, 1)
    matrix =
      Matrix(.f32, rows: rows, columns: groups, UnsafeRawBufferPointer(offsets.values), owner: offsets)
      ?? Matrix([], rows: 0, columns: 0)
  }

  var groups: Int { matrix.native.columns }

  /// Adds them to rows as they were stored.
  func add(to out: UnsafeMutablePointer<Float>, _ rows: Range<Int>, columns: Int) {
    let own = FloatStore(count: max(groups, 1))
    for (place, row) in rows.enumerated() {
      matrix.rows(row..<row + 1, into: own.start)
      spread(own.start, 0..<columns, to: out + place * columns)
    }
  }

  /// Sums of x, as long as a row, over each group.
  func sums(_ x: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>) {
    for group in 0..<groups {
      var sum: SIMD8<Float> = .zero, rest: Float = 0
      let from = x + group * length
      var index = 0
      while index + 8 <= length {
        sum += UnsafeRawPointer(from + index).loadUnaligned(as: SIMD8<Float>.self)
        index += 8
      }
      while index < length {
        rest += from[index]
        index += 1
      }
      out[group] = sum.sum() + rest
    }
  }

  /// Adds the number of each group to the elements `range` of a row.
  func spread(_ numbers: UnsafePointer<Float>, _ range: Range<Int>, to out: UnsafeMutablePointer<Float>) {
    var element = range.lowerBound
    while element < range.upperBound {
      let end = min((element / length + 1) * length, range.upperBound)
      let number = numbers[element / length]
      for at in element - range.lowerBound..<end - range.lowerBound { out[at] += number }
      element = end
    }
  }
}

extension Matrix {
  /// Whole numbers of 4 bits in groups along rows, [rows, columns] as stored.
  ///
  /// - Parameters:
  ///   - scales: one a group, with every number of the group multiplied
  ///   - zeros: what codes are relative to; nil for the middle, 8
  ///   - areOffsets: whether zeros are what codes of 0 stand for instead
  /// - Returns: nil if there are not as many codes and groups, or rows are of odd length
  init?(
    rows: Int, columns: Int, codes: UnsafeRawBufferPointer, groupLength length: Int, scales: FloatStore, zeros: FloatStore?,
    areOffsets: Bool = false, owner: AnyObject
  ) {
    guard length >= 2, length % 2 == 0, columns % length == 0, codes.count == rows * columns / 2, let data = codes.baseAddress,
      scales.count == rows * columns / length, zeros.map({ $0.count == scales.count }) ?? true
    else { return nil }
    let codebook = FloatStore((0..<16).map { Float($0) - (zeros == nil ? 8 : 0) })
    let native = MatrixView(
      rows: rows, columns: columns, codes: data, blockSize: length, codebook: codebook.start, scales: scales.start
    ).native
    let offsets = zeros.map { zeros in
      GroupOffsets(areOffsets ? zeros : FloatStore(zip(scales.values, zeros.values).map { -$0 * $1 }), rows: rows, length: length)
    }
    self.init(native, isTransposed: false, offsets: offsets, owners: [owner, codebook, scales])
  }
}
