import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// What sets one weight apart from another, in memory as float32.
struct ChangedMatrix {
  let values: FloatStore
  let rows: Int
  let columns: Int
  /// Whether the rows are the layer's outputs.
  let rowsAreOutputs: Bool
  /// ‖values‖²
  let squaredNorm: Double

  /// - Parameter isInputsFirst: whether the model's own tensor is [inputs, outputs]
  /// - Throws: `.quality` for values that are not finite, `.badInput` for tensors that cannot be compared
  init(from base: StoredTensor, to tuned: StoredTensor, isInputsFirst: Bool) throws {
    let isReadTransposed = base.isTransposed || tuned.isTransposed
    let shape = isReadTransposed ? tuned.logicalShape.reversed() : tuned.logicalShape
    guard shape.count == 2, base.logicalShape == tuned.logicalShape else {
      throw NibbleError.badInput("\(tensor: tuned.name.text) of shape \(tuned.logicalShape) is no matrix")
    }
    (rows, columns) = (shape[0], shape[1])
    rowsAreOutputs = isInputsFirst == isReadTransposed
    values = FloatStore(count: tuned.count)
    for (tensor, isFirst) in [(base, true), (tuned, false)] {
      let transposing = isReadTransposed && !tensor.isTransposed
      guard !transposing || !tensor.isPacked else {
        throw NibbleError.badInput("\(tensor: tensor.name.text) is packed the other way round, which is not compared")
      }
      try tensor.forEachValues(transposing: transposing) { [values] start, own, count, _ in
        try Interrupt.check()
        let to = values.start + start
        if isFirst {
          for index in 0..<count { to[index] = -own[index] }
        } else {
          for index in 0..<count { to[index] += own[index] }
        }
      }
    }
    var sums = Difference()
    for start in stride(from: 0, to: values.count, by: 1 << 20) {
      let count = min(1 << 20, values.count - start)
      sums.add(values.start + start, values.start + start, count: count)
    }
    guard sums.nonfinite == 0 else {
      throw NibbleError.quality("\(tensor: tuned.name.text) holds \(sums.nonfinite) NaN or infinite values")
    }
    squaredNorm = sums.squaredA
  }

  /// ‖values − scale-free factors‖², measured on the factors as they are written.
  func squaredDistance(to factors: LowRankFactors, _ team: Team) -> Double {
    let run = max(1, (1 << 20) / max(columns, 1))
    let parts = ceilDivide(rows, run)
    let found = PerChunk<Double>(parts)
    let (rank, inputs) = (factors.rank, factors.a.count / max(factors.rank, 1))
    factors.a.withUnsafeBufferPointer { a in
      factors.b.withUnsafeBufferPointer { b in
        let (a, b) = (Unchecked(a.baseAddress), Unchecked(b.baseAddress))
        team.run(parts) { index, scratch in
          guard let a = a.value, let b = b.value else { return }
          let start = index * run
          let count = min(run, rows - start)
          let product = scratch.floatStart(0, count * columns)
          if rowsAreOutputs {
            _ = BLAS.multiply(
              b + start * rank, rank, a, inputs, transposed: false, product, columns, m: count, n: columns, k: rank)
          } else {
            _ = BLAS.multiply(
              a + start, inputs, b, rank, transposed: true, product, columns, m: count, n: columns, k: rank, transposedLeft: true)
          }
          var sums = Difference()
          sums.add(values.start + start * columns, product, count: count * columns)
          found.set(index, sums.squaredDifference)
        }
      }
    }
    return found.values.reduce(0, +)
  }
}
