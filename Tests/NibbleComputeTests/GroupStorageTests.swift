import NibbleCompute
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

@Suite("Products with codes in groups that have zeros or offsets")
struct GroupStorageTests {
  /// Random codes with random scales and zeros, and the float32 they stand for.
  private func drawn(_ codec: any InPlaceCodec, _ rows: Int, _ columns: Int) throws -> (packed: Matrix, plain: Matrix) {
    var random = Generator(8)
    let values = UnsafeMutablePointer<Float>.allocate(capacity: rows * columns)
    defer { values.deallocate() }
    for index in 0..<rows * columns { values[index] = random.normal() + 0.3 }
    let memory = Scratch()
    let task = EncodingTask(
      .f32, [rows, columns], place: "test", rules: .nearest, search: .absmax, threads: 1, pool: ScratchPool(), measures: false,
      memory: memory)
    let sections = try codec.encoded(values, task).sections
    let owner = Sections(sections)
    let kinds = codec.sections(.f32, [rows, columns]).map(\.kind)
    let bytes = { (kind: SectionKind) in kinds.firstIndex(of: kind).map { owner.bytes[$0] } }
    let mapped = MappedSections(
      owner: owner, inPlace: bytes, number: { bytes($0)?.loadUnaligned(as: Float.self) ?? .nan })
    let packed = try #require(try codec.matrix(rows: rows, columns: columns, mapped, isTransposed: false))
    let decoder = codec.decoder(.f32, [rows, columns], Array(sections.dropFirst()), memory)
    sections[0].withUnsafeBytes { if let from = $0.baseAddress { decoder.decode(from, 0, rows * columns, .f32, values) } }
    return (packed, Matrix(Array(UnsafeBufferPointer(start: values, count: rows * columns)), rows: rows, columns: columns))
  }

  private final class Sections {
    let bytes: [UnsafeRawBufferPointer]
    private let own: [UnsafeMutableRawBufferPointer]

    init(_ sections: [[UInt8]]) {
      own = sections.map { section in
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: max(section.count, 1), alignment: 64)
        copy.copyBytes(from: section)
        return UnsafeMutableRawBufferPointer(rebasing: copy[..<section.count])
      }
      bytes = own.map { UnsafeRawBufferPointer($0) }
    }

    deinit { for one in own { one.deallocate() } }
  }

  private static let codecs: [any InPlaceCodec] = [
    Int4Groups(size: 32, scale: .f16, zero: .none), Int4Groups(size: 64, scale: .f16, zero: .half),
    Int4Groups(size: 128, scale: .bf16, zero: .int), Int4Groups(size: 0, scale: .f32, zero: .float),
    Int4Groups(size: 64, scale: .bf16, zero: .offset),
    OffsetBlocks(), OffsetBlocks(blockSize: 32, nested: nil), OffsetBlocks(blockSize: 256),
  ]

  @Test(
    "are those with the numbers they stand for, both ways, whatever the rows, threads and kernels", arguments: codecs,
    KernelVariant.allCases.filter(\.runs))
  func products(_ codec: any InPlaceCodec, _ variant: KernelVariant) throws {
    let (rows, columns) = (200, 256)
    let (packed, plain) = try drawn(codec, rows, columns)
    #expect(packed.isPacked)
    var random = Generator(3)
    for (m, threads) in [(1, 1), (3, 2), (12, 1), (40, 2), (130, 3)] {
      let engine = Engine(.f32, team: Team(threads: threads), variant: variant)
      for turned in [false, true] {
        let (inputs, outputs) = turned ? (rows, columns) : (columns, rows)
        let x = FloatStore((0..<m * inputs).map { _ in random.normal() })
        func product(_ matrix: Matrix, adds: Bool) -> [Float] {
          let y = FloatStore([Float](repeating: 1, count: m * outputs))
          engine.multiply(
            x.start, rows: m, stride: inputs, [.init(turned ? matrix.turned : matrix, y.start, stride: outputs, adds: adds)])
          return Array(y.values)
        }
        for adds in [false, true] {
          let (found, expected) = (product(packed, adds: adds), product(plain, adds: adds))
          // Sums of some hundred products of numbers near 1.
          #expect(zip(found, expected).allSatisfy { abs($0 - $1) <= 2e-4 }, "\(m) \(turned) \(adds)")
        }
      }
    }
  }

  @Test("give rows and look-ups as they are", arguments: codecs)
  func rows(_ codec: any InPlaceCodec) throws {
    let (packed, plain) = try drawn(codec, 20, 256)
    let (a, b) = (FloatStore(count: 3 * 256), FloatStore(count: 3 * 256))
    packed.lookUp([7, 0, 19], into: a.start)
    plain.lookUp([7, 0, 19], into: b.start)
    #expect(zip(a.values, b.values).allSatisfy { abs($0 - $1) <= 1e-6 })
  }

}
