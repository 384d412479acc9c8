import NibbleQuant
import TestSupport
import Testing

@Suite("Low-rank products and survival sums")
struct ChangeKernelTests {
  static let shapes = [(1, 1, 1), (3, 7, 2), (4, 64, 16), (5, 65, 3), (9, 130, 8), (17, 31, 5)]

  @Test("every variant gives the bits of fused multiply-adds in order", arguments: shapes, KernelVariant.allCases.filter(\.runs))
  func lowRank(_ shape: (rows: Int, columns: Int, rank: Int), _ variant: KernelVariant) {
    var random = Generator(7)
    let left = (0..<shape.rows * shape.rank).map { _ in random.normal() }
    let right = (0..<shape.rank * shape.columns).map { _ in random.normal() }
    var out = [Float](repeating: .nan, count: shape.rows * shape.columns + 1)
    ChangeKernels.lowRank(
      left, rows: shape.rows, right, rightStride: shape.columns, columns: shape.columns, rank: shape.rank, &out,
      outStride: shape.columns, variant: variant)
    for i in 0..<shape.rows {
      for j in 0..<shape.columns {
        var sum: Float = 0
        for k in 0..<shape.rank { sum.addProduct(left[i * shape.rank + k], right[k * shape.columns + j]) }
        #expect(out[i * shape.columns + j] == sum)
      }
    }
    #expect(out.last?.isNaN == true)
  }

  @Test("sums are those of float64", arguments: [0, 1, 15, 1024, 5001], KernelVariant.allCases.filter(\.runs))
  func sums(_ count: Int, _ variant: KernelVariant) {
    var random = Generator(9)
    let base = (0..<count).map { _ in random.normal() }, delta = (0..<count).map { _ in random.normal() * 0.1 }
    let written = zip(base, delta).map { $0 + $1 + random.normal() * 0.01 }
    let found = ChangeKernels.measure(base: base, written: written, delta: delta, count: count, variant: variant)
    var exact = ChangeSums()
    for i in 0..<count {
      let (w, v, d) = (Double(base[i]), Double(written[i]), Double(delta[i]))
      exact += ChangeSums(kept: (v - w) * d, delta: d * d, base: w * w, noise: (v - w - d) * (v - w - d))
    }
    #expect(abs(found.kept - exact.kept) <= 1e-4 * exact.delta)
    #expect(abs(found.delta - exact.delta) <= 1e-5 * exact.delta)
    #expect(abs(found.base - exact.base) <= 1e-5 * exact.base)
    #expect(abs(found.noise - exact.noise) <= 1e-2 * exact.noise)
  }
}
