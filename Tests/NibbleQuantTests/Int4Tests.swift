import NibbleCore
import NibbleFormats
import NibbleQuant
import TestSupport
import Testing

@Suite("Whole numbers of 4 bits in groups")
struct Int4Tests {
  private func coded(_ codec: Int4Groups, _ values: [Float], _ shape: [Int], _ search: ScaleSearch = .absmax) throws
    -> DecidedCodes
  { try encoded(codec, values, encodingTask(shape, search)) }

  @Test("rounded to nearest are the reference's codes, scales and zeros")
  func reference() throws {
    let file = try TensorFile(fixture("gptq.safetensors"))
    func golden(_ name: String) throws -> [Float] { try file.floats(#require(file.tensor(name))) }
    let codes = try coded(Int4Groups(size: 32, scale: .f32, zero: .float), golden("W"), [12, 96])
    let expected = try file.floats(#require(file.tensor("rtn_codes"))).map { UInt8($0) }
    #expect(codes.sections[0].flatMap { [$0 >> 4, $0 & 15] } == expected)
    let (scales, zeros) = (try golden("rtn_scale"), try golden("rtn_zero"))
    #expect(floats(codes.sections[1]) == scales && floats(codes.sections[2]) == zeros)
    #expect(zip(decoded(codes, [12, 96]), try golden("W_rtn")).allSatisfy { abs($0 - $1) <= 1e-6 + 1e-5 * abs($1) })
  }

  static let codecs = [32, 64, 128, 0].flatMap { size in
    Int4Groups.Zero.allCases.flatMap { zero in [DType.f16, .bf16, .f32].map { Int4Groups(size: size, scale: $0, zero: zero) } }
  }

  @Test("come back as the codes say, whatever the group, the scale and the zero", arguments: codecs)
  func roundTrip(_ codec: Int4Groups) throws {
    var random = Generator(11)
    let shape = [6, 256], values = (0..<6 * 256).map { _ in random.normal() * 0.02 }
    let rounded = try coded(codec, values, shape), searched = try coded(codec, values, shape, .mse)
    let lengths = codec.sections(.f32, shape).map(\.length)
    #expect(rounded.sections.map(\.count) == lengths && searched.sections.map(\.count) == lengths)
    let (plain, better) = (relativeError(values, decoded(rounded, shape)), relativeError(values, decoded(searched, shape)))
    #expect(plain < 0.17 && better < plain)
    // Codes of what codes stand for are themselves.
    let again = try coded(codec, decoded(searched, shape), shape, .mse)
    #expect(relativeError(decoded(searched, shape), decoded(again, shape)) < 0.01)
  }

  @Test("a symmetric group is the middle and what is above and below it; zeros and constants have codes")
  func cornerCases() throws {
    let symmetric = Int4Groups(size: 32, scale: .f32, zero: .none)
    let ramp = (0..<32).map { Float($0) - 15.5 }
    #expect(decoded(try coded(symmetric, ramp, [1, 32]), [1, 32]).allSatisfy { abs($0) <= 16.54 })
    for zero in Int4Groups.Zero.allCases {
      let codec = Int4Groups(size: 32, scale: .f16, zero: zero)
      #expect(decoded(try coded(codec, [Float](repeating: 0, count: 64), [2, 32]), [2, 32]).allSatisfy { $0 == 0 })
      // Zeros lie within 0...15, so a constant is within half a step of a multiple of the scale.
      let constant = decoded(try coded(codec, [Float](repeating: 3, count: 64), [2, 32], .mse), [2, 32])
      #expect(constant.allSatisfy { abs($0 - 3) < 0.01 })
    }
  }

  @Test("a value that is not finite takes its group along, and is counted", arguments: [Float.nan, .infinity, 1e30])
  func nonfinite(_ bad: Float) throws {
    let codec = Int4Groups(size: 32, scale: .f16, zero: .half)
    var values = [Float](repeating: 0.5, count: 96)
    values[40] = bad
    let found = decoded(try coded(codec, values, [1, 96]), [1, 96])
    #expect(
      found[32..<64].allSatisfy { !$0.isFinite } && found[..<32].allSatisfy(\.isFinite) && found[64...].allSatisfy(\.isFinite))
  }

  @Test("refuse what groups do not divide, and say what would")
  func refused() {
    #expect(
      Int4Groups(size: 128).refusal(.f32, [4, 576])?.contains("no multiple of the group size 128") == true)
    #expect(Int4Groups(size: 32).refusal(.f32, [4, 30])?.contains("no multiple") == true)
    #expect(Int4Groups(size: 0).refusal(.f32, [4, 33])?.contains("odd length") == true)
    #expect(Int4Groups(size: 0).refusal(.f32, [4, 34]) == nil)
    #expect(Int4Groups().refusal(.f32, [64]) == "it is no matrix" && Int4Groups().refusal(.f32, [0, 64]) == "it is no matrix")
  }
}
