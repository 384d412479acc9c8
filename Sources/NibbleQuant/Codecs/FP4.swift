import CNibbleKernels

extension BlockCodec.Code {
  /// 4-bit float: sign, two exponent bits, one mantissa bit, divided by 12.
  public static let fp4 = BlockCodec.Code(number: 2, name: "fp4", codebook: .fp4, encoder: nibble_fp4)
}

extension Codebook {
  /// The values of 4-bit float, in code order. Code 8 is +0, as bitsandbytes stores it.
  public static let fp4 = Codebook(bits: [
    0x0000_0000, 0x3BAA_AAAB, 0x3F2A_AAAB, 0x3F80_0000, 0x3EAA_AAAB, 0x3F00_0000, 0x3E2A_AAAB, 0x3E80_0000,
    0x0000_0000, 0xBBAA_AAAB, 0xBF2A_AAAB, 0xBF80_0000, 0xBEAA_AAAB, 0xBF00_0000, 0xBE2A_AAAB, 0xBE80_0000,
  ])
}
