import NibbleCore

/// Decompositions of small float64 matrices, by OpenBLAS' LAPACK. Matrices are stored column by column.
package enum LAPACK {
  private typealias Numbers = UnsafeMutablePointer<Double>?
  private typealias Sizes = UnsafeMutablePointer<CInt>
  private typealias Factorize = @convention(c) (Sizes, Sizes, Numbers, Sizes, Numbers, Numbers, Sizes, Sizes) -> Void
  private typealias MakeQ = @convention(c) (Sizes, Sizes, Sizes, Numbers, Sizes, Numbers, Numbers, Sizes, Sizes) -> Void
  private typealias Decompose =
    @convention(c) (
      UnsafePointer<CChar>, Sizes, Sizes, Numbers, Sizes, Numbers, Numbers, Sizes, Numbers, Sizes, Numbers, Sizes, Sizes, Sizes
    ) -> Void

  private struct Library: @unchecked Sendable {
    let geqrf: Factorize
    let orgqr: MakeQ
    let gesdd: Decompose

    init?() {
      guard let geqrf = BLAS.function("dgeqrf_", as: Factorize.self), let orgqr = BLAS.function("dorgqr_", as: MakeQ.self),
        let gesdd = BLAS.function("dgesdd_", as: Decompose.self)
      else { return nil }
      (self.geqrf, self.orgqr, self.gesdd) = (geqrf, orgqr, gesdd)
    }
  }

  private static let library = Library()

  private static func opened() throws -> Library {
    guard let library else {
      throw NibbleError(.failed, "this needs OpenBLAS with LAPACK (libopenblas.so.0), which is not installed")
    }
    return library
  }

  private static func size(_ value: Int) throws -> CInt {
    guard let value = CInt(exactly: value) else {
      throw NibbleError(.failed, "a matrix of \(value) numbers is too large for LAPACK")
    }
    return value
  }

  private static func check(_ info: CInt, _ what: String) throws {
    guard info == 0 else { throw NibbleError(.failed, "LAPACK's \(what) did not succeed (\(info))") }
  }

  /// matrix [m, n] = q [m, k] · r [k, n] with k = min(m, n), q's columns orthonormal, r zero below its diagonal.
  ///
  /// - Throws: `.failed` where there is no LAPACK
  package static func qr(_ matrix: [Double], rows: Int, columns: Int) throws -> (q: [Double], r: [Double]) {
    let k = min(rows, columns)
    guard k > 0 else { return ([], []) }
    let library = try opened()
    var (m, n, rank, info) = (try size(rows), try size(columns), try size(k), CInt(0))
    var stride = m
    var a = matrix
    var factors = [Double](repeating: 0, count: k)
    var length = try size(64 * max(columns, 1))
    var work = [Double](repeating: 0, count: Int(length))
    library.geqrf(&m, &n, &a, &stride, &factors, &work, &length, &info)
    try check(info, "QR decomposition")
    var r = [Double](repeating: 0, count: k * columns)
    for column in 0..<columns { for row in 0...min(column, k - 1) { r[column * k + row] = a[column * rows + row] } }
    var reflectors = rank
    library.orgqr(&m, &rank, &reflectors, &a, &stride, &factors, &work, &length, &info)
    try check(info, "QR decomposition")
    return (Array(a[..<(rows * k)]), r)
  }

  /// matrix [m, n] = u [m, k] · diag(s) · vᵀ [k, n] with k = min(m, n), s in descending order.
  ///
  /// - Throws: `.failed` where there is no LAPACK
  package static func svd(_ matrix: [Double], rows: Int, columns: Int) throws -> (u: [Double], s: [Double], vt: [Double]) {
    let k = min(rows, columns)
    guard k > 0 else { return ([], [], []) }
    let library = try opened()
    var (m, n, small, info) = (try size(rows), try size(columns), try size(k), CInt(0))
    var (strideA, strideU) = (m, m)
    var a = matrix
    var u = [Double](repeating: 0, count: rows * k)
    var s = [Double](repeating: 0, count: k)
    var vt = [Double](repeating: 0, count: k * columns)
    var indices = [CInt](repeating: 0, count: 8 * k)
    var length = try size(4 * k * k + 7 * k + 64 * max(rows, columns))
    var work = [Double](repeating: 0, count: Int(length))
    library.gesdd("S", &m, &n, &a, &strideA, &s, &u, &strideU, &vt, &small, &work, &length, &indices, &info)
    try check(info, "singular value decomposition")
    return (u, s, vt)
  }
}
