import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

/// A shape of product and how its weights are stored.
struct ProductCase: Sendable, CustomTestStringConvertible {
  enum Storage: Sendable { case plain(DType), codes(BlockCodec) }
  var rows: Int, columns: Int, m: Int
  var storage: Storage
  var testDescription: String {
    switch storage {
    case .plain(let dtype): "\(rows)x\(columns) \(dtype), \(m) rows"
    case .codes(let codec): "\(rows)x\(columns) \(codec.summary), \(m) rows"
    }
  }

  static let all: [ProductCase] = {
    let nested = BlockCodec.Nested()
    let storages: [Storage] = [
      .plain(.f32), .plain(.f16), .plain(.bf16), .codes(BlockCodec(.nf4)), .codes(BlockCodec(.nf4, nested: nil)),
      .codes(BlockCodec(.fp4, blockSize: 32)), .codes(BlockCodec(.nf4, blockSize: 4096)),
      .codes(BlockCodec(.fp4, blockSize: 128, nested: nil)),
    ]
    // Ordinary, odd columns, blocks that run on across row ends, more than a panel of outputs and a stretch of the sum, tiny.
    let shapes = [(64, 128), (33, 77), (50, 96), (210, 1100), (1, 1), (3, 2), (1030, 8), (8, 1030)]
    let ms = [1, 2, 7, 11, 16, 33, 70]
    return storages.enumerated().flatMap { s, storage in
      shapes.enumerated().map { index, shape in
        ProductCase(rows: shape.0, columns: shape.1, m: ms[(index + s) % ms.count], storage: storage)
      }
        // One row whose codes fill registers, which may have loops of its own.
        + [ProductCase(rows: 37, columns: 384, m: 1, storage: storage)]
    }
  }()
}

/// The weights of a case in memory, and what they are as float32.
final class StoredMatrix {
  let view: MatrixView
  let values: [Float]
  /// Of codes: each element's value in the codebook, and its scale.
  private(set) var factors: [(Float, Float)]?
  private var kept: [UnsafeMutableRawPointer] = []

  init(_ test: ProductCase, values source: [Float]) {
    let count = test.rows * test.columns
    var kept: [UnsafeMutableRawPointer] = []
    func memory(_ bytes: Int) -> UnsafeMutableRawPointer {
      let made = UnsafeMutableRawPointer.allocate(byteCount: max(bytes, 1), alignment: 64)
      kept.append(made)
      return made
    }
    var values = [Float](repeating: 0, count: count)
    switch test.storage {
    case .plain(let dtype):
      let data = memory(count * 4)
      Kernels.narrow(dtype, source, count: count, data, variant: .portable)
      Kernels.widen(dtype, data, count: count, &values, variant: .portable)
      view = MatrixView(rows: test.rows, columns: test.columns, dtype, data)
    case .codes(let codec):
      let codes = memory(codec.codeBytes(count)).assumingMemoryBound(to: UInt8.self)
      var absmax = [Float](repeating: 0, count: codec.blocks(count))
      _ = Kernels.encode(codec, .nearest, .f32, source, count: count, codes: codes, absmax: &absmax, moments: nil)
      for index in stride(from: 0, to: absmax.count, by: 3) { absmax[index].negate() }
      let codebook = memory(64).assumingMemoryBound(to: Float.self)
      for (index, value) in codec.codebook.values.enumerated() { codebook[index] = value }
      if let nested = codec.nested {
        // Any codes will do: what is tested is that they are read as the format says.
        let scaleCodes = memory(absmax.count).assumingMemoryBound(to: UInt8.self)
        let nestedScales = memory(4 * codec.nestedBlocks(count)).assumingMemoryBound(to: Float.self)
        let map = memory(1024).assumingMemoryBound(to: Float.self)
        for (index, value) in nested.codebook.values.enumerated() { map[index] = value }
        // So that scales of both signs come up.
        let offset: Float = 0.005
        for index in 0..<codec.nestedBlocks(count) { nestedScales[index] = 0.02 + 0.001 * Float(index) }
        for index in absmax.indices {
          scaleCodes[index] = UInt8(truncatingIfNeeded: index &* 37 &+ 5)
          absmax[index] = map[Int(scaleCodes[index])] * nestedScales[index / nested.blockSize] + offset
        }
        view = MatrixView(
          rows: test.rows, columns: test.columns, codes: codes, blockSize: codec.blockSize, codebook: codebook,
          scaleCodes: scaleCodes, scaleMap: map, nestedScales: nestedScales, nestedBlockSize: nested.blockSize, offset: offset)
      } else {
        let scales = memory(4 * absmax.count).assumingMemoryBound(to: Float.self)
        for (index, value) in absmax.enumerated() { scales[index] = value }
        view = MatrixView(
          rows: test.rows, columns: test.columns, codes: codes, blockSize: codec.blockSize, codebook: codebook, scales: scales)
      }
      Kernels.decode(codec, codes: codes, count: count, absmax: absmax, .f32, &values, variant: .portable)
      let ones = [Float](repeating: 1, count: absmax.count)
      var unscaled = values
      Kernels.decode(codec, codes: codes, count: count, absmax: ones, .f32, &unscaled, variant: .portable)
      factors = unscaled.indices.map { (unscaled[$0], absmax[$0 / codec.blockSize]) }
    }
    self.values = values
    self.kept = kept
  }

  deinit { for memory in kept { memory.deallocate() } }
}

private func randomFloats(_ count: Int, seed: UInt64) -> [Float] {
  var state = seed &* 0x9E37_79B9_7F4A_7C15 | 1
  return (0..<count).map { _ in
    state ^= state << 13
    state ^= state >> 7
    state ^= state << 17
    return Float(Int32(truncatingIfNeeded: state)) / Float(Int32.max)
  }
}

private func rounded(_ x: Float) -> Float {
  let bits = x.bitPattern
  return Float(bitPattern: (bits &+ 0x7FFF &+ (bits >> 16 & 1)) & 0xFFFF_0000)
}

private func same(_ a: [Float], _ b: [Float]) -> Bool {
  a.withUnsafeBytes { a in b.withUnsafeBytes { b in a.elementsEqual(b) } }
}

/// Packs x and computes outputs in ranges of `step`.
private func product(
  _ compute: Compute, _ matrix: StoredMatrix, _ x: [Float], m: Int, transposed: Bool, step: Int, start: Float? = nil,
  _ variant: KernelVariant
) -> [Float] {
  let w = matrix.view
  let (k, outputs) = transposed ? (w.rows, w.columns) : (w.columns, w.rows)
  let packed = UnsafeMutableRawPointer.allocate(
    byteCount: ProductKernels.packedBytes(compute, m: m, k: k, variant: variant), alignment: 64)
  defer { packed.deallocate() }
  ProductKernels.pack(compute, x, m: m, k: k, stride: k, into: packed, variant: variant)
  var y = [Float](repeating: start ?? .nan, count: m * outputs)
  for first in stride(from: 0, to: outputs, by: step) {
    let range = first..<min(first + step, outputs)
    let scratch = UnsafeMutableRawPointer.allocate(
      byteCount: ProductKernels.scratchBytes(compute, w, m: m, count: range.count, variant: variant), alignment: 64)
    defer { scratch.deallocate() }
    (transposed ? ProductKernels.multiplyTransposed : ProductKernels.multiply)(
      compute, w, packed, m, range, start != nil, &y, outputs, scratch, variant)
  }
  return y
}

@Suite("Products with stored matrices")
struct ProductTests {
  static let variants = KernelVariant.allCases.filter(\.runs)

  @Test("against sums in float64, and the same for any split", arguments: variants, ProductCase.all)
  func sums(_ variant: KernelVariant, _ test: ProductCase) {
    let matrix = StoredMatrix(test, values: randomFloats(test.rows * test.columns, seed: 3))
    for transposed in [false, true] {
      let (k, outputs) = transposed ? (test.rows, test.columns) : (test.columns, test.rows)
      let x = randomFloats(test.m * k, seed: 5)
      for compute in Compute.allCases {
        let y = product(compute, matrix, x, m: test.m, transposed: transposed, step: outputs, variant)
        let split = product(compute, matrix, x, m: test.m, transposed: transposed, step: max(1, outputs / 3), variant)
        #expect(same(y, split))
        let added = product(compute, matrix, x, m: test.m, transposed: transposed, step: outputs, start: 1, variant)
        #expect(same(added, y.map { 1 + $0 }))
        // A sample where there are many, the last one with it.
        let checked = Array(stride(from: 0, to: y.count, by: 1 + y.count / 200)) + [y.count - 1]
        let wrong = checked.first { at in
          let (i, j) = (at / outputs, at % outputs)
          var exact = 0.0, inBF16 = 0.0, scaledLast = 0.0, size = 0.0
          for p in 0..<k {
            let a = x[i * k + p], place = transposed ? p * test.columns + j : j * test.columns + p, b = matrix.values[place]
            exact += Double(a) * Double(b)
            inBF16 += Double(rounded(a)) * Double(rounded(b))
            if test.m == 1, let (value, scale) = matrix.factors?[place] {
              scaledLast += Double(rounded(a)) * Double(rounded(value)) * Double(scale)
            }
            size += abs(Double(a) * Double(b))
          }
          // Sums of float32 in any order; with few rows a variant may keep more than bfloat16, with one scale sums.
          let tolerance = 0x1p-24 * (16 + 2 * Double(k).squareRoot()) * size
          let allowed = compute == .f32 ? [exact] : [exact, inBF16] + (test.m == 1 && !transposed ? [scaledLast] : [])
          return !allowed.contains { abs(Double(y[at]) - $0) <= tolerance }
        }
        #expect(wrong == nil, "\(compute), transposed \(transposed)")
      }
    }
  }

  @Test("rows of the matrix are its values, bit for bit", arguments: variants, ProductCase.all)
  func rows(_ variant: KernelVariant, _ test: ProductCase) {
    let matrix = StoredMatrix(test, values: randomFloats(test.rows * test.columns, seed: 11))
    for range in [0..<test.rows, test.rows / 2..<test.rows, test.rows - 1..<test.rows] {
      var out = [Float](repeating: .nan, count: range.count * test.columns)
      ProductKernels.rows(matrix.view, range, into: &out, variant: variant)
      let expected = matrix.values[range.lowerBound * test.columns..<range.upperBound * test.columns]
      #expect(same(out, Array(expected)))
    }
  }

  @Test("NaN and infinity reach every output they belong to", arguments: variants, [1, 3, 40])
  func nonfinite(_ variant: KernelVariant, _ m: Int) {
    let test = ProductCase(rows: 40, columns: 70, m: m, storage: .plain(.f32))
    for bad in [Float.nan, .infinity] {
      for transposed in [false, true] {
        let (k, outputs) = transposed ? (test.rows, test.columns) : (test.columns, test.rows)
        var weights = randomFloats(test.rows * test.columns, seed: 7)
        weights[5 * test.columns + 69] = bad
        let matrix = StoredMatrix(test, values: weights)
        var x = randomFloats(m * k, seed: 9)
        x[(m - 1) * k + k - 1] = bad
        for compute in Compute.allCases {
          let y = product(compute, matrix, x, m: m, transposed: transposed, step: outputs, variant)
          for at in y.indices {
            let touched = at / outputs == m - 1 || at % outputs == (transposed ? 69 : 5)
            #expect(y[at].isFinite != touched, "\(compute) \(at)")
          }
        }
      }
    }
  }
}
