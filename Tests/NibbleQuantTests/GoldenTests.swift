import NibbleCore
import NibbleQuant
import TestSupport
import Testing

/// One case of the golden files.
struct GoldenCase: Sendable, CustomTestStringConvertible {
  let file: String
  let name: String
  let codec: BlockCodec
  let dtype: DType
  let count: Int
  var testDescription: String { "\(file) \(name)" }

  func bytes(_ key: String) throws -> [UInt8]? { try Golden.open(file)[name + "/" + key] }
  func floats(_ key: String) throws -> [Float] { try Golden.open(file).floats(name + "/" + key) }
}

enum Golden {
  static func open(_ file: String) throws -> SmallSafetensors { try SmallSafetensors(fixture("golden/\(file).safetensors")) }

  static func cases(_ files: [String]) -> [GoldenCase] {
    files.flatMap { file -> [GoldenCase] in
      guard let golden = try? open(file), let info = try? golden.info().members else { return [] }
      return info.compactMap { name, about in
        guard let kind = about["quant_type"]?.string.flatMap(BlockCodec.Code.init(name:)),
          let size = about["blocksize"]?.int, let entry = golden.entry(name + "/input")
        else { return nil }
        let nested = about["nested"]?.bool == true ? BlockCodec.Nested() : nil
        return GoldenCase(
          file: file, name: name, codec: BlockCodec(kind, blockSize: size, nested: nested), dtype: entry.dtype,
          count: elementCount(of: entry.shape) ?? 0)
      }
    }
  }

  private static let all = cases(["nf4_basic", "nf4_blocksizes", "nf4_edge", "nf4_storage", "fp4", "nf4_double"])
  static let single = all.filter { $0.codec.nested == nil }
  static let double = all.filter { $0.codec.nested != nil }
  static let variants = KernelVariant.allCases.filter(\.runs)
}

/// Encodes into new arrays.
func encode(
  _ codec: BlockCodec, _ rules: EncodingRules, _ dtype: DType, _ input: [UInt8], count: Int, _ variant: KernelVariant
) -> (codes: [UInt8], absmax: [Float], moments: [Float], counts: EncodeCounts) {
  var codes = [UInt8](repeating: 0xAA, count: codec.codeBytes(count))
  var absmax = [Float](repeating: -1, count: codec.blocks(count))
  var moments = [Float](repeating: -1, count: 3 * codec.blocks(count))
  let counts = input.withUnsafeBytes {
    Kernels.encode(
      codec, rules, dtype, $0.baseAddress!, count: count, codes: &codes, absmax: &absmax, moments: &moments,
      variant: variant)
  }
  return (codes, absmax, moments, counts)
}

func decode(
  _ codec: BlockCodec, _ codes: [UInt8], _ absmax: [Float], count: Int, _ dtype: DType, _ variant: KernelVariant
) -> [UInt8] {
  var out = [UInt8](repeating: 0, count: count * dtype.bitWidth / 8)
  out.withUnsafeMutableBytes {
    Kernels.decode(codec, codes: codes, count: count, absmax: absmax, dtype, $0.baseAddress!, variant: variant)
  }
  return out
}

/// Equality without printing a thousand numbers when there is none.
func same(_ a: [UInt8], _ b: [UInt8]?) -> Bool { a == b }

/// The same bits, but for NaN payloads.
func same(_ a: [Float], _ b: [Float]) -> Bool {
  a.count == b.count && zip(a, b).allSatisfy { $0.bitPattern == $1.bitPattern || $0.isNaN && $1.isNaN }
}

/// Bytes with every NaN made the same one: its payload is free.
func withoutPayloads(_ bytes: [UInt8], _ dtype: DType) -> [UInt8] {
  let width = dtype.bitWidth / 8
  var out = bytes
  for at in stride(from: 0, to: bytes.count, by: width) {
    let word = (0..<width).reduce(UInt32(0)) { $0 | UInt32(bytes[at + $1]) << UInt32(8 * $1) }
    let isNaN =
      switch dtype {
      case .f32: word & 0x7FFF_FFFF > 0x7F80_0000
      case .bf16: word & 0x7FFF > 0x7F80
      default: word & 0x7FFF > 0x7C00
      }
    if isNaN { for index in 0..<width { out[at + index] = 0xFF } }
  }
  return out
}

@Suite("Bit for bit what bitsandbytes makes")
struct GoldenTests {
  @Test("the cases are there") func present() {
    #expect(Golden.single.count >= 60)
    #expect(Golden.double.count >= 20)
    #expect(Golden.double.contains { $0.codec.code == .fp4 })
    #expect(Golden.variants.contains(.portable))
  }

  @Test("codes and scales, CPU rule", arguments: Golden.single)
  func cpu(_ golden: GoldenCase) throws {
    for variant in Golden.variants {
      let made = encode(golden.codec, .cpu, golden.dtype, try #require(try golden.bytes("input")), count: golden.count, variant)
      #expect(same(made.codes, try golden.bytes("packed")), "\(variant)")
      #expect(same(made.absmax, try golden.floats("absmax")), "\(variant)")
    }
  }

  @Test("codes and scales, CUDA rule", arguments: Golden.single)
  func cuda(_ golden: GoldenCase) throws {
    for variant in Golden.variants {
      let made = encode(golden.codec, .cuda, golden.dtype, try #require(try golden.bytes("input")), count: golden.count, variant)
      #expect(same(made.codes, try golden.bytes("cuda_model.packed")), "\(variant)")
      #expect(same(made.absmax, try golden.floats("cuda_model.absmax")), "\(variant)")
    }
  }

  @Test(
    "the nearest rule is the CUDA rule but for blocks of zeros",
    arguments: Golden.single.filter { !$0.name.contains("zero") && !$0.name.contains("subnormal") })
  func nearest(_ golden: GoldenCase) throws {
    let input = try #require(try golden.bytes("input"))
    let nearest = encode(golden.codec, .nearest, golden.dtype, input, count: golden.count, .current)
    let cuda = encode(golden.codec, .cuda, golden.dtype, input, count: golden.count, .current)
    #expect(same(nearest.codes, cuda.codes))
  }

  @Test("decoded values", arguments: Golden.single, [DType.f32, .bf16, .f16])
  func decoded(_ golden: GoldenCase, _ dtype: DType) throws {
    let name = [DType.f32: "float32", .bf16: "bfloat16", .f16: "float16"][dtype]!
    let expected = try #require(try golden.bytes("dequant_" + name))
    for variant in Golden.variants {
      let made = decode(
        golden.codec, try #require(try golden.bytes("packed")), try golden.floats("absmax"), count: golden.count, dtype, variant)
      #expect(same(withoutPayloads(made, dtype), withoutPayloads(expected, dtype)), "\(variant)")
    }
  }

  @Test("scale codes given the offset", arguments: Golden.double, [EncodingRules.cpu, .cuda])
  func scaleCodes(_ golden: GoldenCase, _ rules: EncodingRules) throws {
    let absmax = try golden.floats("absmax_fp32")
    let offset = try golden.floats("nested_offset")[0]
    var codes = [UInt8](repeating: 0xAA, count: absmax.count)
    var nested = [Float](repeating: -1, count: ceilDivide(absmax.count, 256))
    absmax.withUnsafeBufferPointer {
      ScaleCoder.encode($0, offset: offset, rules, codes: &codes, nestedAbsmax: &nested)
    }
    #expect(same(codes, try golden.bytes(rules == .cpu ? "absmax" : "cuda_model.absmax")))
    #expect(same(nested, try golden.floats("nested_absmax")))
  }

  @Test("the offset is within 2 ulp of theirs, the restored scales are theirs", arguments: Golden.double)
  func restored(_ golden: GoldenCase) throws {
    let absmax = try golden.floats("absmax_fp32")
    let theirs = try golden.floats("nested_offset")[0]
    let ours = absmax.withUnsafeBufferPointer { ScaleCoder.offset(of: $0) }
    #expect(abs(Int(ours.bitPattern) - Int(theirs.bitPattern)) <= 2)
    let codes = try #require(try golden.bytes("absmax"))
    var restored = [Float](repeating: 0, count: codes.count)
    codes.withUnsafeBufferPointer {
      ScaleCoder.decode(
        $0, map: .dynamic, nestedAbsmax: (try? golden.floats("nested_absmax")) ?? [], blockSize: 256, offset: theirs,
        absmax: &restored)
    }
    #expect(same(restored, try golden.floats("absmax_restored")))
  }

  @Test("the tables are the library's bits")
  func tables() throws {
    let tables = try Golden.open("tables")
    #expect(tables["nf4_code"] == Codebook.nf4.bytes)
    #expect(tables["fp4_code"] == Codebook.fp4.bytes)
    #expect(tables["dynamic_map_signed_8bit"] == Codebook.dynamic.bytes)
  }
}

@Suite("Every variant gives the portable one's bits")
struct VariantTests {
  struct Shape: Sendable { let blockSize: Int, count: Int, dtype: DType }
  static let shapes = BlockCodec.blockSizes.flatMap { size in
    [1, size - 1, size, 2 * size + 17].flatMap { count in
      [DType.f32, .f16, .bf16, .f64].map { Shape(blockSize: size, count: count, dtype: $0) }
    }
  }

  static func input(_ shape: Shape) -> [UInt8] {
    var generator = Generator(UInt64(shape.count * 31 + shape.blockSize))
    let odd: [Float] = [0, -0.0, .nan, .infinity, -.infinity, Float(bitPattern: 1), 1e-38, 3e38, 65504, 1e-7, 0.0397901498]
    return (0..<shape.count).flatMap { index -> [UInt8] in
      let value = index % 97 == 5 ? odd[Int(generator.next() % UInt64(odd.count))] : generator.normal()
      switch shape.dtype {
      case .f64: return littleEndian(Double(value).bitPattern)
      case .f16: return littleEndian(Float16(value).bitPattern)
      case .bf16: return littleEndian(UInt16(truncatingIfNeeded: value.bitPattern >> 16))
      default: return littleEndian(value.bitPattern)
      }
    }
  }

  @Test("encode and decode", arguments: shapes, [BlockCodec.Code.nf4, .fp4])
  func encoders(_ shape: Shape, _ code: BlockCodec.Code) {
    let codec = BlockCodec(code, blockSize: shape.blockSize, nested: nil)
    let input = Self.input(shape)
    for rules in EncodingRules.allCases {
      let expected = encode(codec, rules, shape.dtype, input, count: shape.count, .portable)
      for variant in Golden.variants where variant != .portable {
        let made = encode(codec, rules, shape.dtype, input, count: shape.count, variant)
        #expect(same(made.codes, expected.codes))
        #expect(same(made.absmax, expected.absmax))
        #expect(made.counts.nonfinite == expected.counts.nonfinite)
        #expect(made.counts.zeroBlocks == expected.counts.zeroBlocks)
        #expect(
          zip(made.moments, expected.moments).allSatisfy {
            !$0.isFinite || !$1.isFinite || abs($0 - $1) <= 1e-4 * max(1, abs($1))
          })
        for dtype in [DType.f32, .bf16, .f16] {
          let decoded = decode(codec, made.codes, made.absmax, count: shape.count, dtype, variant)
          let oracle = decode(codec, made.codes, made.absmax, count: shape.count, dtype, .portable)
          #expect(same(decoded, oracle) || same(withoutPayloads(decoded, dtype), withoutPayloads(oracle, dtype)))
        }
      }
    }
  }

  @Test("16-bit patterns survive widening, narrowing rounds to nearest even", arguments: Golden.variants)
  func halves(_ variant: KernelVariant) {
    let patterns = (0...UInt16.max).map { $0 }
    for dtype in [DType.f16, .bf16] {
      var wide = [Float](repeating: 0, count: patterns.count)
      var back = [UInt16](repeating: 0, count: patterns.count)
      patterns.withUnsafeBytes { Kernels.widen(dtype, $0.baseAddress!, count: patterns.count, &wide, variant: variant) }
      back.withUnsafeMutableBytes { Kernels.narrow(dtype, wide, count: wide.count, $0.baseAddress!, variant: variant) }
      #expect(wide.indices.allSatisfy { wide[$0].isNaN || back[$0] == patterns[$0] })
      if dtype == .f16 {
        #expect(same(wide, patterns.map { Float(Float16(bitPattern: $0)) }))
      }
    }
    // Halfway between two bf16 values: to the even one.
    let ties: [Float] = [Float(bitPattern: 0x3F80_8000), Float(bitPattern: 0x3F81_8000), Float(bitPattern: 0x3F80_8001)]
    var out = [UInt16](repeating: 0, count: 3)
    out.withUnsafeMutableBytes { Kernels.narrow(.bf16, ties, count: 3, $0.baseAddress!, variant: variant) }
    #expect(out == [0x3F80, 0x3F82, 0x3F81])
  }
}

@Suite("Error measures")
struct MeasureTests {
  @Test("moments tell the error that decoding shows", arguments: [32, 64, 256], [BlockCodec.Code.nf4, .fp4])
  func moments(_ blockSize: Int, _ code: BlockCodec.Code) {
    let codec = BlockCodec(code, blockSize: blockSize, nested: nil)
    var generator = Generator(5)
    let x = (0..<10_000).map { _ in generator.normal() }
    let input = x.flatMap { littleEndian($0.bitPattern) }
    let made = encode(codec, .nearest, .f32, input, count: x.count, .current)
    let y = decode(codec, made.codes, made.absmax, count: x.count, .f32, .current).withUnsafeBytes {
      Array($0.bindMemory(to: Float.self))
    }
    let error = zip(x, y).reduce(0.0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
    let reported = made.absmax.enumerated().reduce(0.0) { $0 + Double($1.element * $1.element) * Double(made.moments[3 * $1.offset]) }
    #expect(abs(reported - error) < 1e-5 * error)
  }

  @Test("differences and statistics by hand")
  func byHand() {
    var difference = Difference()
    difference.add([3, 4, .nan, 1], [3, 5, .nan, .infinity], count: 4)
    #expect(difference.squaredDifference == 1)
    #expect(difference.squaredA == 25)
    #expect(difference.relativeRMS == 0.2)
    #expect(difference.maxDifference == 1)
    #expect(difference.nonfinite == 2)
    #expect(difference.unequal == 2)
    #expect(abs(difference.sqnr - 13.979) < 1e-3)
    var statistics = TensorStatistics()
    statistics.add([1, 2, 3, 0, .nan, -.infinity], count: 6)
    #expect(statistics.mean == 1.5)
    #expect(statistics.minimum == 0)
    #expect(statistics.maximum == 3)
    #expect((statistics.zeros, statistics.nans, statistics.infinities) == (1, 1, 1))
  }
}
