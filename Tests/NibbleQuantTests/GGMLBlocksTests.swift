import CNibbleKernels
import NibbleCore
import NibbleQuant
import TestSupport
import Testing

/// Blocks are compared with those of ggml's own C code, compiled without fused products (`Fixtures/ggml/make.py`).
@Suite("Blocks of ggml")
struct GGMLBlocksTests {
  static let types = GGMLType.all.filter { $0.dtype == nil }
  static let variants = KernelVariant.allCases.filter(\.runs)
  private let golden: SmallSafetensors

  init() throws { golden = try SmallSafetensors(fixture("ggml/blocks.safetensors")) }

  private func decode(_ type: GGMLType, _ blocks: [UInt8], _ run: Range<Int>, _ variant: KernelVariant, as dtype: DType = .f32) -> [Float] {
    var out = [UInt8](repeating: 0, count: run.count * dtype.bitWidth / 8), wide = [Float](repeating: 0, count: run.count)
    Kernels.decode(type, blocks, from: run.lowerBound, count: run.count, dtype, &out, variant: variant)
    Kernels.widen(dtype, out, count: run.count, &wide)
    return wide
  }

  @Test("are ggml's to the bit, with any kernels", arguments: types, variants)
  func encoding(_ type: GGMLType, _ variant: KernelVariant) {
    let rows = golden.floats("rows"), expected = golden["\(type.name).blocks"] ?? []
    var blocks = [UInt8](repeating: 0xAA, count: expected.count)
    _ = Kernels.encode(type, rows, count: rows.count, &blocks, variant: variant)
    #expect(blocks == expected && !expected.isEmpty)
  }

  @Test("decode to ggml's numbers, whole and in runs, with any kernels", arguments: types, variants)
  func decoding(_ type: GGMLType, _ variant: KernelVariant) {
    let noise = golden["\(type.name).noise"] ?? [], expected = golden.floats("\(type.name).decoded")
    #expect(decode(type, noise, 0..<256, variant).map(\.bitPattern) == expected.map(\.bitPattern))
    for run in [0..<5, 31..<33, 7..<250, 100..<101, 250..<256] {
      #expect(decode(type, noise, run, variant).map(\.bitPattern) == expected[run].map(\.bitPattern))
      let rounded = decode(type, noise, run, variant, as: .bf16)
      var narrow = [UInt16](repeating: 0, count: run.count), again = [Float](repeating: 0, count: run.count)
      Kernels.narrow(.bf16, Array(expected[run]), count: run.count, &narrow)
      Kernels.widen(.bf16, narrow, count: run.count, &again)
      #expect(rounded == again)
    }
  }

  @Test("come back as the codec says, in whatever pieces", arguments: types)
  func codec(_ type: GGMLType) throws {
    var random = Generator(5)
    let shape = [5, 512], values = (0..<5 * 512).map { _ in random.normal() * 0.02 }
    let codes = try encoded(GGMLBlocks(type), values, encodingTask(shape, threads: 2))
    #expect(codes.sections.map(\.count) == GGMLBlocks(type).sections(.f32, shape).map(\.length))
    let bits = Double(8 * type.blockBytes) / Double(type.blockElements)
    #expect(relativeError(values, decoded(codes, shape)) < 1.4 * pow2(-bits + 0.9))
  }

  private func pow2(_ x: Double) -> Double { x < 0 ? 1 / pow2(-x) : x >= 1 ? 2 * pow2(x - 1) : 1 + x }

  @Test("a value that is not finite takes its block along, and is counted", arguments: types, [Float.nan, .infinity, -.infinity])
  func nonfinite(_ type: GGMLType, _ bad: Float) {
    var x = [Float](repeating: 0.5, count: 3 * type.blockElements)
    x[type.blockElements + 3] = bad
    var blocks = [UInt8](repeating: 0, count: 3 * type.blockBytes)
    let counts = Kernels.encode(type, x, count: x.count, &blocks)
    #expect(counts.nonfinite == type.blockElements && counts.finiteLost == type.blockElements - 1)
    let found = decode(type, blocks, 0..<x.count, .current)
    let lost = type.blockElements..<2 * type.blockElements
    #expect(found.indices.allSatisfy { found[$0].isFinite != lost.contains($0) })
  }

  @Test("say what the scale loses: blocks beyond float16, below it, and of zeros", arguments: types.filter { $0 != .mxfp4 })
  func counted(_ type: GGMLType) {
    func counts(_ value: Float) -> EncodeCounts {
      let x = (0..<type.blockElements).map { $0 % 2 == 0 ? value : -value / 2 }
      var blocks = [UInt8](repeating: 0, count: type.blockBytes)
      return Kernels.encode(type, x, count: x.count, &blocks)
    }
    #expect(counts(0).zeroBlocks == 1 && counts(0.1).all == EncodeCounts().all)
    #expect(counts(1e15).nonfinite == type.blockElements && counts(1e15).finiteLost == type.blockElements)
    #expect(counts(1e-9).vanished == 1)
    // Three steps of float16 and fewer, where codes reach to 8 and more; one, where they reach to 113 and 127.
    let small: Float = [.q8_0, .iq4_nl].contains(type) ? 1e-5 : 3e-6
    #expect(counts(small).subnormal == (type.blockElements == 32 ? 1 : 0))
  }

  @Test("an importance far from 1 leaves weights that are not 0", arguments: types, [Float(1e-44), 3e38])
  func farImportance(_ type: GGMLType, _ value: Float) throws {
    var random = Generator(9)
    let shape = [4, 256], values = (0..<4 * 256).map { _ in random.normal() * 0.02 }
    var task = encodingTask(shape)
    task.importance = [Float](repeating: value, count: 256)
    #expect(relativeError(values, decoded(try encoded(GGMLBlocks(type), values, task), shape)) < 0.5)
  }

  @Test("groups whose importance is next to nothing count as those of 0, and ordinary numbers stay what they are")
  func usable() throws {
    let ordinary: [Float] = (0..<64).map { $0 % 5 == 0 ? 0 : 1e-9 * Float($0) }
    let codec = GGMLBlocks(.q4_0), (numbers, mended) = try #require(codec.usable(ordinary))
    #expect(numbers == ordinary && mended == 0)
    let small = try #require(codec.usable([Float](repeating: 3, count: 32) + [Float](repeating: 1e-44, count: 32)))
    #expect(small.numbers == [Float](repeating: 3, count: 64) && small.mended == 32)
    let large = try #require(codec.usable([Float](repeating: 3e38, count: 32) + [Float](repeating: 0, count: 32)))
    #expect(large.numbers.allSatisfy { (1..<2).contains($0) } && large.mended == 32)
    #expect(codec.usable([0, 0]) == nil && codec.usable([1, .infinity]) == nil)
  }

  @Test("refuse rows that are not whole blocks, and name types that hold them")
  func refused() {
    let reason = GGMLBlocks(.q4_k).refusal(.f32, [4, 576])
    #expect(reason?.contains("no multiple of 256") == true && reason?.contains("q8_0") == true && reason?.contains("q6_k") == false)
    #expect(GGMLBlocks(.q8_0).refusal(.f32, [4, 30])?.hasSuffix("f32, f16, bf16 can hold them") == true)
    #expect(GGMLBlocks(.q8_0).refusal(.f32, [4, 64]) == nil && GGMLBlocks(.q8_0).refusal(.f32, [0, 64]) != nil)
  }

  @Test("types are known by number and name, and no codec of block files or of --codec")
  func table() {
    #expect(Set(GGMLType.all.map(\.number)).count == GGMLType.all.count && Set(GGMLType.all.map(\.name)).count == GGMLType.all.count)
    for type in GGMLType.all {
      #expect(GGMLType(number: type.number) == type && GGMLType(name: type.name.uppercased()) == type)
      #expect(type.byteCount([3, 256]) == 3 * 256 / type.blockElements * type.blockBytes)
      if type.dtype == nil {
        #expect(nibble_ggml_numbers(type.native) == type.blockElements && nibble_ggml_bytes(type.native) == type.blockBytes)
        #expect(Codecs.numbered(Int(type.kind.number)) == nil && Codecs.all.contains(type.kind) && !Codecs.packing.contains(type.kind))
      }
    }
    #expect(GGMLType.q4_k.byteCount([2, 255]) == nil && GGMLType.f32.byteCount([Int.max, 2]) == nil && GGMLType(number: 4) == nil)
  }

  @Test(
    "groups of int4 move into q4_0 and q4_1 with every number as it is",
    arguments: [32, 64, 0], [Int4Groups.Zero.none, .int, .half, .offset])
  func moved(_ size: Int, _ zero: Int4Groups.Zero) throws {
    var random = Generator(7)
    let shape = [4, 128], codec = Int4Groups(size: size, scale: .f16, zero: zero)
    let groups = codec.groups(shape)
    // Powers of two make products of scales and zeros float16.
    let scales = (0..<groups).map { _ in Float.random(in: 1...2, using: &random) * 0.01 }
    let zeros = (0..<groups).map { _ in zero == .offset ? Float(-0.25) : Float(Int.random(in: 1...7, using: &random) * 2) }
    let plain = scales.map { zero == .int || zero == .half ? Float(sign: .plus, exponent: $0.exponent, significand: 1.25) : $0 }
    let behind = plain.withUnsafeBufferPointer { s in zeros.withUnsafeBufferPointer { codec.sections(scales: s, zeros: $0) } }
    let codes = DecidedCodes(codec, sections: [(0..<256).map { UInt8($0) }] + behind)
    let values = decoded(codes, shape)
    let type = try #require(codec.ggmlType)
    let memory = Scratch()
    var task = encodingTask(shape)
    (task.source, task.keepsSource) = (codec.decoder(.f32, shape, behind, memory), true)
    let blocks = try encoded(GGMLBlocks(type), values, task)
    withExtendedLifetime(memory) {
      #expect(decoded(blocks, shape).map(\.bitPattern) == values.map(\.bitPattern))
      #expect(codec.refusal(type, shape, behind) == nil)
    }
  }

  @Test("groups whose scales or offsets are no float16 are refused with the reason")
  func notMoved() {
    let offsets = Int4Groups(size: 32, scale: .f32, zero: .offset)
    func sections(_ scale: Float, _ offset: Float) -> [[UInt8]] {
      [scale, offset].withUnsafeBufferPointer {
        offsets.sections(scales: .init(rebasing: $0[..<1]), zeros: .init(rebasing: $0[1...]))
      }
    }
    #expect(offsets.refusal(.q4_1, [1, 32], sections(0.5, -2)) == nil)
    #expect(offsets.refusal(.q4_1, [1, 32], sections(0.1, -2))?.contains("no float16") == true)
    #expect(offsets.refusal(.q4_1, [1, 32], sections(0.5, 1e6))?.contains("no float16") == true)
    #expect(offsets.refusal(.q4_0, [1, 32], sections(0.5, -2)) != nil)
  }
}
