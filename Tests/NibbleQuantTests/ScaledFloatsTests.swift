import NibbleCore
import NibbleQuant
import Testing

/// Numbers by their definition; whole checkpoints are compared with transformers in `Tests/Interop/test_scaled_floats.py`.
@Suite("Numbers with an exponent")
struct ScaledFloatsTests {
  private func decode(_ codec: any WeightCodec, _ shape: [Int], _ codes: [UInt8], _ scales: [UInt8], _ run: Range<Int>) -> [Float] {
    let memory = Scratch(), decoder = codec.decoder(.f32, shape, [scales], memory)
    var out = [Float](repeating: 7, count: run.count)
    let place = decoder.codes(run.lowerBound, run.count)
    Array(codes[place]).withUnsafeBytes { codes in
      out.withUnsafeMutableBytes { out in
        if let codes = codes.baseAddress, let out = out.baseAddress { decoder.decode(codes, run.lowerBound, run.count, .f32, out) }
      }
    }
    return out
  }

  @Test("E2M1: the first of a pair is in the low half, each 32 have a power of two")
  func mxfp4() {
    let codes = (0..<32).map { UInt8($0 % 2 == 0 ? 0x10 : 0xFA) }, scales: [UInt8] = [127, 130]
    let found = decode(MXFP4(), [2, 32], codes, scales, 0..<64)
    #expect(found[0..<4] == [0, 0.5, -1, -6])
    #expect(found[32..<36] == [0, 4, -8, -48])
    #expect(decode(MXFP4(), [2, 32], codes, scales, 32..<64) == Array(found[32...]))
  }

  @Test("E8M0: 0 is 2^-127, 255 is NaN")
  func powers() {
    let codes = [UInt8](repeating: 0x22, count: 16)
    #expect(decode(MXFP4(), [1, 32], codes, [0], 0..<32)[0].bitPattern == 0x0040_0000)
    let broken = decode(MXFP4(), [1, 32], codes, [255], 0..<32), count = broken.count { $0.isNaN }
    #expect(count == 32)
  }

  @Test("E4M3: subnormal numbers, the greatest, NaN; tiles are cut off at the edge")
  func fp8() {
    let codes: [UInt8] = [0x01, 0x38, 0x7E, 0x81, 0xC0, 0x7F], scales: [Float] = [2, 10]
    let bytes = scales.withUnsafeBytes { [UInt8]($0) }
    let found = decode(FP8Tiles(height: 4, width: 2, scale: .f32), [2, 3], codes, bytes, 0..<6)
    #expect(found[0..<5] == [0x1p-8, 2, 4480, -0x1p-8, -4])
    #expect(found[5].isNaN)
    #expect(decode(FP8Tiles(height: 4, width: 2, scale: .f32), [2, 3], codes, bytes, 4..<5) == [-4])
  }
}
