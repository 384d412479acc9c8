import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@Suite("Codes shaped to keep a change")
struct ShaperTests {
  /// Heavy tails, as weights have them.
  static func weights(_ count: Int, _ random: inout Generator) -> [Float] {
    (0..<count).map { _ in
      let scale = (0..<5).reduce(Float(0)) { sum, _ in
        let x = random.normal()
        return sum + x * x
      }
      return 0.02 * random.normal() / (scale / 5).squareRoot()
    }
  }

  struct Case {
    var codec: BlockCodec, rows: Int, columns: Int, rank: Int
    var base: [Float] = [], delta: [Float] = [], right: [Float] = [], scales: [Float] = []

    init(_ code: BlockCodec.Code, rows: Int, columns: Int, rank: Int, share: Float) {
      codec = BlockCodec(code, blockSize: 64, nested: nil)
      (self.rows, self.columns, self.rank) = (rows, columns, rank)
      var random = Generator(UInt64(rows + columns + rank))
      base = ShaperTests.weights(rows * columns, &random)
      scales = [Float](repeating: 0, count: codec.blocks(base.count))
      var codes = [UInt8](repeating: 0, count: codec.codeBytes(base.count))
      _ = Kernels.encode(codec, .nearest, .f32, base, count: base.count, codes: &codes, absmax: &scales, moments: nil)
      Kernels.decode(codec, codes: codes, count: base.count, absmax: scales, .f32, &base)
      right = (0..<rank * columns).map { _ in random.normal() }
      let left = (0..<rows * rank).map { _ in random.normal() }
      delta = [Float](repeating: 0, count: base.count)
      ChangeKernels.lowRank(
        left, rows: rows, right, rightStride: columns, columns: columns, rank: rank, &delta, outStride: columns)
      let size = (base.reduce(0) { $0 + $1 * $1 } / delta.reduce(0) { $0 + $1 * $1 }).squareRoot()
      delta = delta.map { $0 * size * share }
    }

    func shaped(_ strength: Double, _ variant: KernelVariant = .current) -> (codes: [UInt8], values: [Float], carried: Double) {
      let shaper = Shaper(codec, right: right, rank: rank, columns: columns).compensating(strength)
      let wanted = zip(base, delta).map { $0 + $1 }
      var codes = [UInt8](repeating: 0, count: base.count)
      var values = [Float](repeating: 0, count: base.count)
      let carried = shaper.pack(wanted, element: 0, rows: rows, scales: scales, codes: &codes, values: &values, variant: variant)
      return (Array(codes.prefix(codec.codeBytes(base.count))), values, carried)
    }

    func sums(_ values: [Float]) -> ChangeSums {
      ChangeKernels.measure(base: base, written: values, delta: delta, count: base.count)
    }
  }

  @Test("keep nearly all of a change that rounding erases", arguments: [Float(0.005), 0.01])
  func survival(_ share: Float) {
    let one = Case(.nf4, rows: 96, columns: 512, rank: 16, share: share)
    var rounded = zip(one.base, one.delta).map { $0 + $1 }
    var own = one.scales
    var codes = [UInt8](repeating: 0, count: one.codec.codeBytes(rounded.count))
    _ = Kernels.encode(one.codec, .nearest, .f32, rounded, count: rounded.count, codes: &codes, absmax: &own, moments: nil)
    Kernels.decode(one.codec, codes: codes, count: rounded.count, absmax: own, .f32, &rounded)
    #expect(one.sums(rounded).survival < 0.1)
    let shaped = one.shaped(1000)
    #expect(one.sums(shaped.values).survival > 0.9)
    // Where the adapter reads, less is wrong than the change is large.
    #expect(shaped.carried.squareRoot() < 0.6 * one.sums(shaped.values).delta.squareRoot())
    #expect(one.sums(shaped.values).relativeNoise < 0.08)
  }

  @Test("are what they decode to", arguments: [BlockCodec.Code.nf4, .fp4])
  func codes(_ code: BlockCodec.Code) {
    let one = Case(code, rows: 17, columns: 192, rank: 3, share: 0.02)
    let shaped = one.shaped(1000)
    var decoded = [Float](repeating: 0, count: one.base.count)
    Kernels.decode(one.codec, codes: shaped.codes, count: one.base.count, absmax: one.scales, .f32, &decoded)
    #expect(decoded == shaped.values)
  }

  @Test("are the same from every variant", arguments: KernelVariant.allCases.filter(\.runs))
  func variants(_ variant: KernelVariant) {
    let one = Case(.nf4, rows: 37, columns: 200, rank: 5, share: 0.01)
    let expected = one.shaped(3000, .portable), found = one.shaped(3000, variant)
    #expect(found.codes == expected.codes)
    #expect(found.values == expected.values)
  }

  @Test("are those of the definition, solved anew for every column in float64")
  func definition() {
    let one = Case(.nf4, rows: 8, columns: 256, rank: 4, share: 0.02)
    let shaped = one.shaped(1000)
    let (r, n) = (one.rank, one.columns)
    var basis: [[Double]] = []
    for k in 0..<r {
      var v = (0..<n).map { Double(one.right[k * n + $0]) }
      for _ in 0..<2 {
        for other in basis {
          let dot = zip(v, other).reduce(0) { $0 + $1.0 * $1.1 }
          v = zip(v, other).map { $0 - dot * $1 }
        }
      }
      let length = v.reduce(0) { $0 + $1 * $1 }.squareRoot()
      basis.append(v.map { $0 / length })
    }
    let book = one.codec.codebook.values.map(Double.init)
    var debts = [[Double]](repeating: [Double](repeating: 0, count: r), count: one.rows)
    var differing = 0
    for j in 0..<n {
      let v = basis.map { $0[j] }
      // (I/c + Σ over columns from j on of v vᵀ) g = v_j
      var a = (0..<r).map { p in
        (0..<r).map { q in (p == q ? 1e-3 : 0) + (j..<n).reduce(0) { $0 + basis[p][$1] * basis[q][$1] } }
      }
      var g = v
      for i in 0..<r {
        for row in 0..<r where row != i {
          let factor = a[row][i] / a[i][i]
          for q in 0..<r { a[row][q] -= factor * a[i][q] }
          g[row] -= factor * g[i]
        }
      }
      for i in 0..<r { g[i] /= a[i][i] }
      for row in 0..<one.rows {
        let at = row * n + j
        let wanted = Double(one.base[at] + one.delta[at]), scale = Double(one.scales[at / 64])
        let x = (wanted + zip(debts[row], g).reduce(0) { $0 + $1.0 * $1.1 }) / scale
        let nearest = book.min { abs($0 - x) < abs($1 - x) } ?? 0
        if abs(nearest * scale - Double(shaped.values[at])) > 1e-6 { differing += 1 }
        // Carried on with what was written, so that one tie does not make the rest differ.
        let error = wanted - Double(shaped.values[at])
        for k in 0..<r { debts[row][k] += error * v[k] }
      }
    }
    #expect(differing <= 2)
  }
}
