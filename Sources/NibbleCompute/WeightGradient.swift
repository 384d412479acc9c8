import NibbleCore

extension Engine {
  /// Columns of a gradient that one thread takes at a time: fixed, so that nothing depends on the number of threads.
  private static var gradientRun: Int { 256 }

  /// gradient[outputs, inputs] += scale · dyᵀ · x: what the weight of y = x · Wᵀ gets.
  ///
  /// - Parameters:
  ///   - dy: [rows, outputs], rows `dyStride` floats apart
  ///   - x: [rows, inputs], rows `xStride` floats apart
  package func addWeightGradient(
    _ dy: UnsafePointer<Float>, stride dyStride: Int, outputs: Int, _ x: UnsafePointer<Float>, stride xStride: Int, inputs: Int,
    rows: Int, scale: Float = 1, to gradient: UnsafeMutablePointer<Float>
  ) {
    guard rows > 0 else { return }
    // Along the longer side.
    let isWide = inputs >= outputs
    let length = isWide ? inputs : outputs
    team.run(ceilDivide(length, Self.gradientRun)) { index, _ in
      let start = index * Self.gradientRun
      let count = min(Self.gradientRun, length - start)
      let (left, right) = isWide ? (dy, x + start) : (dy + start, x)
      let (m, n) = isWide ? (outputs, count) : (count, inputs)
      let to = gradient + (isWide ? start : start * inputs)
      let isDone = BLAS.multiply(
        left, dyStride, right, xStride, transposed: false, to, inputs, m: m, n: n, k: rows, alpha: scale, beta: 1,
        transposedLeft: true)
      guard !isDone else { return }
      for row in 0..<rows {
        for i in 0..<m {
          LayerKernels.add(right + row * xStride, scaledBy: scale * left[row * dyStride + i], count: n, to: to + i * inputs)
        }
      }
    }
  }

  /// sums[j] += Σ over rows of x[row, j].
  package func addColumnSums(_ x: UnsafePointer<Float>, stride: Int, rows: Int, count: Int, to sums: UnsafeMutablePointer<Float>)
  {
    team.run(ceilDivide(count, Self.gradientRun)) { index, _ in
      let start = index * Self.gradientRun
      let own = min(Self.gradientRun, count - start)
      for row in 0..<rows { LayerKernels.add(x + row * stride + start, count: own, to: sums + start) }
    }
  }
}
