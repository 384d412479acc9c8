/// Whose corner cases an encoder follows where bitsandbytes' own kernels part: blocks of zeros, short last blocks,
/// subnormal and huge scales, ties of scale codes.
public enum EncodingRules: String, Sendable, CaseIterable {
  /// The CUDA rule, except that a block of zeros takes the code for zero.
  case nearest
  case cuda, cpu
}
