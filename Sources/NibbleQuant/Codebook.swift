/// The values codes stand for: 16 for weights, 256 for scales. Kept as bits, so that none is ever recomputed.
public struct Codebook: Hashable, Sendable {
  /// The bit patterns of the float32 values, by code.
  public let bits: [UInt32]

  /// A table of these bit patterns.
  public init(bits: [UInt32]) { self.bits = bits }

  /// The values, by code.
  public var values: [Float] { bits.map { Float(bitPattern: $0) } }

  /// The values as little-endian bytes, as files hold them.
  public var bytes: [UInt8] {
    bits.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) } }
  }

  /// Reads little-endian float32 values; nil unless there are 16 or 256 finite ones.
  public init?(bytes: [UInt8]) {
    guard bytes.count == 64 || bytes.count == 1024 else { return nil }
    bits = stride(from: 0, to: bytes.count, by: 4).map { at in
      (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << ($1 * 8) }
    }
    guard values.allSatisfy(\.isFinite) else { return nil }
  }

  /// 4-bit NormalFloat: quantiles of the normal distribution, ascending, with an exact zero at code 7.
  public static let nf4 = Codebook(bits: [
    0xBF80_0000, 0xBF32_39B1, 0xBF06_6B30, 0xBECA_32A0, 0xBE91_A24D, 0xBE3D_353F, 0xBDBA_7871, 0x0000_0000,
    0x3DA2_FAFF, 0x3E24_CAE3, 0x3E7C_04DD, 0x3EAD_033A, 0x3EE1_A4B8, 0x3F10_07AB, 0x3F39_13B3, 0x3F80_0000,
  ])

  /// 4-bit float (sign, two exponent bits, one mantissa bit) divided by 12, in code order. Code 8 is +0, as
  /// bitsandbytes stores it.
  public static let fp4 = Codebook(bits: [
    0x0000_0000, 0x3BAA_AAAB, 0x3F2A_AAAB, 0x3F80_0000, 0x3EAA_AAAB, 0x3F00_0000, 0x3E2A_AAAB, 0x3E80_0000,
    0x0000_0000, 0xBBAA_AAAB, 0xBF2A_AAAB, 0xBF80_0000, 0xBEAA_AAAB, 0xBF00_0000, 0xBE2A_AAAB, 0xBE80_0000,
  ])
}
