import Glibc
import NibbleQuant

/// OpenBLAS, for products of float32 matrices.
///
/// It is opened when first needed: its own start takes longer than most verbs do. It runs on one thread; our loops bring the
/// others.
package enum BLAS {
  private typealias Sgemm =
    @convention(c) (
      CInt, CInt, CInt, CInt, CInt, CInt, Float, UnsafePointer<Float>?, CInt, UnsafePointer<Float>?, CInt, Float,
      UnsafeMutablePointer<Float>?, CInt
    ) -> Void

  private struct Library: @unchecked Sendable {
    let handle: UnsafeMutableRawPointer
    let sgemm: Sgemm
    let coreName: String

    init?() {
      guard let handle = dlopen("libopenblas.so.0", RTLD_NOW | RTLD_LOCAL) ?? dlopen("libopenblas.so", RTLD_NOW | RTLD_LOCAL),
        let sgemm = dlsym(handle, "cblas_sgemm"), let setThreads = dlsym(handle, "openblas_set_num_threads")
      else { return nil }
      self.handle = handle
      self.sgemm = unsafeBitCast(sgemm, to: Sgemm.self)
      unsafeBitCast(setThreads, to: (@convention(c) (CInt) -> Void).self)(1)
      coreName =
        dlsym(handle, "openblas_get_corename").flatMap {
          unsafeBitCast($0, to: (@convention(c) () -> UnsafePointer<CChar>?).self)()
        }.map { String(cString: $0) } ?? "unknown"
    }
  }

  private static let library = Library()

  /// Asks OpenBLAS for kernels of this processor's instruction set, where nobody has asked and it is not open yet: a release that is older
  /// than the processor takes kernels from before AVX, which are four times slower.
  package static func askForNewKernels() {
    guard getenv("OPENBLAS_CORETYPE") == nil else { return }
    if KernelVariant.avx512.runs {
      setenv("OPENBLAS_CORETYPE", "SkylakeX", 0)
    } else if KernelVariant.avx2.runs {
      setenv("OPENBLAS_CORETYPE", "Haswell", 0)
    }
  }

  /// The kernels OpenBLAS chose; nil where it is not installed.
  package static var coreName: String? { library?.coreName }

  /// What OpenBLAS says of itself: version and build options; nil where it is not installed.
  package static var configuration: String? {
    function("openblas_get_config", as: (@convention(c) () -> UnsafePointer<CChar>?).self)?().map { String(cString: $0) }
  }

  /// Another function of the library.
  static func function<Function>(_ name: String, as _: Function.Type) -> Function? {
    library.flatMap { dlsym($0.handle, name) }.map { unsafeBitCast($0, to: Function.self) }
  }

  /// Whether there is an OpenBLAS.
  package static var isThere: Bool { library != nil }

  /// c[m, n] = alpha · a · b + beta · c, all row by row; a is [k, m] if `transposedLeft`, else [m, k]; b is [n, k] if `transposed`,
  /// else [k, n].
  ///
  /// - Returns: false if there is no OpenBLAS or a size is beyond what it takes; nothing is done then
  package static func multiply(
    _ a: UnsafePointer<Float>, _ aStride: Int, _ b: UnsafePointer<Float>, _ bStride: Int, transposed: Bool,
    _ c: UnsafeMutablePointer<Float>, _ cStride: Int, m: Int, n: Int, k: Int, alpha: Float = 1, beta: Float = 0,
    transposedLeft: Bool = false
  ) -> Bool {
    guard let library, let m = CInt(exactly: m), let n = CInt(exactly: n), let k = CInt(exactly: k),
      let aStride = CInt(exactly: aStride), let bStride = CInt(exactly: bStride), let cStride = CInt(exactly: cStride)
    else { return false }
    let rowMajor: CInt = 101
    let plain: CInt = 111
    library.sgemm(
      rowMajor, transposedLeft ? 112 : plain, transposed ? 112 : plain, m, n, k, alpha, a, aStride, b, bStride, beta, c, cStride)
    return true
  }
}
