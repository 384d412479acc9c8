import CNibbleKernels

extension BlockCodec.Code {
  /// 4-bit NormalFloat: quantiles of the normal distribution, ascending, with an exact zero at code 7 (QLoRA, appendix E).
  public static let nf4: BlockCodec.Code = BlockCodec.Code(
    number: 1, name: "nf4", codebook: .nf4, encoder: nibble_nf4, withOffsets: { CodecKind.nf4Offsets.make($0) })
}

extension Codebook {
  /// The values of 4-bit NormalFloat, by code.
  public static let nf4 = Codebook(bits: [
    0xBF80_0000, 0xBF32_39B1, 0xBF06_6B30, 0xBECA_32A0, 0xBE91_A24D, 0xBE3D_353F, 0xBDBA_7871, 0x0000_0000,
    0x3DA2_FAFF, 0x3E24_CAE3, 0x3E7C_04DD, 0x3EAD_033A, 0x3EE1_A4B8, 0x3F10_07AB, 0x3F39_13B3, 0x3F80_0000,
  ])
}
