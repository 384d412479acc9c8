import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// Δ = gain ∘ W + left · right, in the order a matrix's elements are stored: LoRA and all that folds into two factors, several of them
/// side by side. The gain is DoRA's.
struct LowRankChange: TensorChange {
  /// [rows, rank], scaled.
  let left: FloatStore
  /// [rank, columns]
  let right: FloatStore
  let columns: Int
  let rank: Int
  /// One number a row, or a column if `isGainByColumn`.
  var gain: FloatStore?
  var isGainByColumn = false
  /// Whether rows are the layer's outputs, and so read its inputs.
  var rowsAreOutputs = true

  func delta(
    _ values: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _: Scratch
  ) {
    // Whole rows together; a row that is begun or left in the middle alone.
    var done = 0
    while done < count {
      let (row, column) = (start + done).quotientAndRemainder(dividingBy: columns)
      let left = count - done
      let (rows, width) = column == 0 && left >= columns ? (left / columns, columns) : (1, min(columns - column, left))
      product(row, rows, column, width, into: delta + done)
      addGain(row, rows, column, width, values + done, to: delta + done)
      done += rows * width
    }
  }

  var rowSpace: RowSpace? { RowSpace(right.start, rank: rank, columns: columns, isOfInputs: rowsAreOutputs) }

  private func product(_ row: Int, _ rows: Int, _ column: Int, _ width: Int, into out: UnsafeMutablePointer<Float>) {
    ChangeKernels.lowRank(
      left.start + row * rank, rows: rows, right.start + column, rightStride: columns, columns: width, rank: rank, out,
      outStride: width)
  }

  private func addGain(
    _ row: Int, _ rows: Int, _ column: Int, _ width: Int, _ values: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>
  ) {
    guard let gain = gain?.start else { return }
    for i in 0..<rows {
      let (from, to) = (values + i * width, out + i * width)
      if isGainByColumn {
        for j in 0..<width { to[j] += gain[column + j] * from[j] }
      } else {
        let factor = gain[row + i]
        for j in 0..<width { to[j] += factor * from[j] }
      }
    }
  }
}

/// Δ is a given vector: a bias of the second factor.
struct VectorChange: TensorChange {
  let values: FloatStore

  func delta(_: UnsafePointer<Float>, _ start: Int, _ count: Int, into delta: UnsafeMutablePointer<Float>, _: Scratch) {
    delta.update(from: values.start + start, count: count)
  }
}
