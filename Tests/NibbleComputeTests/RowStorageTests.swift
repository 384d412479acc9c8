import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@Suite("Rows of signed bytes")
struct RowStorageTests {
  /// Bytes at an odd address with their scales behind them, and the float32 they stand for.
  private final class Rows: @unchecked Sendable {
    let rows: Int, columns: Int
    let bytes: UnsafeMutableRawBufferPointer
    let values: FloatStore

    init(_ rows: Int, _ columns: Int) {
      (self.rows, self.columns) = (rows, columns)
      var random = Generator(6)
      bytes = .allocate(byteCount: 1 + rows * columns + 4 * rows, alignment: 64)
      var scales: [Float] = (0..<rows).map { _ in 0.1 + abs(random.normal()) }
      if rows > 2 { scales[2] = 0 }
      let codes = (0..<rows * columns).map { _ in Int8.random(in: -127...127, using: &random) }
      for (index, code) in codes.enumerated() { bytes[1 + index] = UInt8(bitPattern: code) }
      for (row, scale) in scales.enumerated() {
        bytes.storeBytes(of: scale, toByteOffset: 1 + rows * columns + 4 * row, as: Float.self)
      }
      values = FloatStore(count: rows * columns)
      RowCodec.decode(codes, from: 0, count: rows * columns, columns: columns, scales: scales, .f32, values.start)
    }

    deinit { bytes.deallocate() }

    func matrix(isTransposed: Bool = false) throws -> Matrix {
      try #require(
        Matrix(
          rows: rows, columns: columns, codes: UnsafeRawBufferPointer(rebasing: bytes[1..<1 + rows * columns]),
          scales: UnsafeRawBufferPointer(rebasing: bytes[(1 + rows * columns)...]), isTransposed: isTransposed, owner: self))
    }
  }

  /// A product by the kernels, without OpenBLAS.
  private func product(
    _ w: MatrixView, _ compute: Compute, _ x: FloatStore, m: Int, transposed: Bool, _ variant: KernelVariant
  ) -> [Float] {
    let (k, n) = transposed ? (w.rows, w.columns) : (w.columns, w.rows)
    let scratch = Scratch()
    let packed = scratch.start(0, ProductKernels.packedBytes(compute, m: m, k: k, variant: variant))
    ProductKernels.pack(compute, x.start, m: m, k: k, stride: k, into: packed, variant: variant)
    let y = FloatStore(count: m * n)
    let work = scratch.start(1, ProductKernels.scratchBytes(compute, w, m: m, count: n, variant: variant))
    (transposed ? ProductKernels.multiplyTransposed : ProductKernels.multiply)(
      compute, w, packed, m, 0..<n, false, y.start, n, work, variant)
    return Array(y.values)
  }

  @Test(
    "give products the bits that their numbers in float32 give, both ways, with any kernels",
    arguments: KernelVariant.allCases.filter(\.runs), Compute.allCases)
  func products(_ variant: KernelVariant, _ compute: Compute) throws {
    var random = Generator(3)
    for (rows, columns) in [(70, 136), (5, 7), (33, 300), (200, 64)] {
      let stored = Rows(rows, columns)
      let plain = MatrixView(rows: rows, columns: columns, .f32, stored.values.start)
      for m in [1, 2, 9, 40] {
        let x = FloatStore((0..<m * max(rows, columns)).map { _ in random.normal() })
        for transposed in [false, true] {
          let found = product(try stored.matrix().view, compute, x, m: m, transposed: transposed, variant)
          #expect(found == product(plain, compute, x, m: m, transposed: transposed, variant), "\(rows) \(columns) \(m) \(transposed)")
        }
      }
    }
  }

  @Test("are what products are made with where they lie, also from a file")
  func matrices() throws {
    let stored = Rows(9, 20)
    let matrix = try stored.matrix()
    #expect(matrix.isPacked && matrix.bytesPerOutput == 20)
    let all = FloatStore(count: 180)
    matrix.rows(0..<9, into: all.start)
    #expect(all.values.elementsEqual(stored.values.values))
    let short = UnsafeRawBufferPointer(rebasing: stored.bytes[0..<179])
    #expect(Matrix(rows: 9, columns: 20, codes: short, scales: UnsafeRawBufferPointer(rebasing: stored.bytes[0..<36]), owner: stored) == nil)
  }
}
