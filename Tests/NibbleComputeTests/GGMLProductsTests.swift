import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@Suite("Products with blocks of ggml")
struct GGMLProductsTests {
  private final class Blocks: @unchecked Sendable {
    let bytes: UnsafeMutableRawBufferPointer
    init(_ type: GGMLType, _ values: [Float]) {
      bytes = .allocate(byteCount: values.count / type.blockElements * type.blockBytes + 1, alignment: 64)
    }
    deinit { bytes.deallocate() }
  }

  static let types = GGMLType.all.filter { $0.dtype == nil }

  private static let (rows, columns) = (70, 512)
  private static let values = {
    var random = Generator(3)
    return (0..<rows * columns).map { _ in Float.random(in: -1...1, using: &random) * 0.05 }
  }()

  @Test(
    "are those of the numbers they stand for, both ways, with few rows and many", arguments: types, KernelVariant.allCases.filter(\.runs))
  func products(_ type: GGMLType, _ variant: KernelVariant) throws {
    let (rows, columns, values) = (Self.rows, Self.columns, Self.values)
    let blocks = Blocks(type, values)
    // Tensors in files begin at any multiple of two bytes.
    let codes = UnsafeMutableRawBufferPointer(rebasing: blocks.bytes[1...])
    let start = try #require(codes.baseAddress)
    _ = Kernels.encode(type, values, count: values.count, start)
    var decoded = [Float](repeating: 0, count: values.count)
    Kernels.decode(type, start, from: 0, count: values.count, .f32, &decoded)
    let sections = MappedSections(owner: blocks, inPlace: { $0 == .codes ? UnsafeRawBufferPointer(codes) : nil }, number: { _ in 0 })
    for isTransposed in [false, true] {
      let stored = try #require(try GGMLBlocks(type).matrix(rows: rows, columns: columns, sections, isTransposed: isTransposed))
      let plain = Matrix(decoded, rows: rows, columns: columns, isTransposed: isTransposed)
      #expect(stored.isPacked && stored.equals(plain))
      for compute in Compute.allCases {
        let engine = Engine(compute, team: Team(threads: 2), variant: variant)
        for m in [1, 3, 20] {
          let (y, z) = (FloatStore(count: m * stored.outputs), FloatStore(count: m * stored.outputs))
          engine.multiply(values, rows: m, stride: stored.inputs, [.init(stored, y.start, stride: stored.outputs)])
          engine.multiply(values, rows: m, stride: stored.inputs, [.init(plain, z.start, stride: stored.outputs)])
          var difference = Difference()
          difference.add(z.start, y.start, count: y.count)
          // Sums in another order; with few rows a variant may keep more than bfloat16 of either side.
          #expect(difference.maxDifference <= (compute == .f32 ? 4e-6 : 1e-2) * difference.maxA && difference.nonfinite == 0)
        }
      }
    }
  }

  @Test("make no matrix of too few bytes, or of rows that are not whole blocks")
  func refused() throws {
    let blocks = Blocks(.q8_0, [Float](repeating: 0, count: 64))
    let sections = MappedSections(owner: blocks, inPlace: { _ in UnsafeRawBufferPointer(rebasing: blocks.bytes[..<68]) }, number: { _ in 0 })
    #expect(try GGMLBlocks(.q8_0).matrix(rows: 2, columns: 32, sections, isTransposed: false) != nil)
    #expect(try GGMLBlocks(.q8_0).matrix(rows: 3, columns: 32, sections, isTransposed: false) == nil)
    #expect(try GGMLBlocks(.q8_0).matrix(rows: 4, columns: 16, sections, isTransposed: false) == nil)
  }
}
