import NibbleCore

extension LAPACK {
  private typealias Sizes = UnsafeMutablePointer<CInt>
  private typealias Letters = UnsafePointer<CChar>
  private typealias Factorize = @convention(c) (Letters, Sizes, UnsafeMutablePointer<Double>?, Sizes, Sizes) -> Void
  private typealias Invert = @convention(c) (Letters, Letters, Sizes, UnsafeMutablePointer<Double>?, Sizes, Sizes) -> Void

  /// Whether OpenBLAS brings what `invertedCholesky` needs.
  package static var hasCholesky: Bool {
    BLAS.function("dpotrf_", as: Factorize.self) != nil && BLAS.function("dtrtri_", as: Invert.self) != nil
  }

  /// Replaces the lower triangle of a symmetric matrix A [n, n], row by row, with L⁻¹, where A = L · Lᵀ.
  ///
  /// - Returns: false if A is not positive definite
  /// - Throws: `.failed` where there is no LAPACK
  package static func invertCholesky(_ a: UnsafeMutablePointer<Double>, _ count: Int) throws -> Bool {
    guard let factorize = BLAS.function("dpotrf_", as: Factorize.self), let invert = BLAS.function("dtrtri_", as: Invert.self) else {
      throw NibbleError(.failed, "this needs OpenBLAS with LAPACK (libopenblas.so.0), which is not installed")
    }
    guard var n = CInt(exactly: count) else {
      throw NibbleError(.failed, "a matrix of \(count) rows is too large for LAPACK")
    }
    // LAPACK goes by columns: its upper triangle is our lower one.
    var (stride, info) = (n, CInt(0))
    factorize("U", &n, a, &stride, &info)
    guard info == 0 else { return false }
    invert("U", "N", &n, a, &stride, &info)
    return info == 0
  }
}
