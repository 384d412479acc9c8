import NibbleCore

extension LAPACK {
  private typealias Sizes = UnsafeMutablePointer<CInt>
  private typealias Letters = UnsafePointer<CChar>
  private typealias Numbers = UnsafePointer<Double>
  private typealias Multiply =
    @convention(c) (Letters, Letters, Sizes, Sizes, Sizes, Numbers, Numbers, Sizes, Numbers, Sizes, Numbers, UnsafeMutablePointer<Double>, Sizes) -> Void

  /// a [m, k] · b [k, n] in float64.
  ///
  /// - Throws: `.failed` where there is no OpenBLAS
  package static func product(_ a: [Double], _ b: [Double], rows: Int, inner: Int, columns: Int) throws -> [Double] {
    guard let multiply = BLAS.function("dgemm_", as: Multiply.self), var m = CInt(exactly: rows), var k = CInt(exactly: inner),
      var n = CInt(exactly: columns)
    else { throw NibbleError(.failed, "this needs OpenBLAS (libopenblas.so.0), which is not installed") }
    var c = [Double](repeating: 0, count: rows * columns)
    guard rows > 0, inner > 0, columns > 0, a.count == rows * inner, b.count == inner * columns else { return c }
    var (one, zero, strideA, strideB, strideC) = (1.0, 0.0, m, k, m)
    multiply("N", "N", &m, &n, &k, &one, a, &strideA, b, &strideB, &zero, &c, &strideC)
    return c
  }
}
