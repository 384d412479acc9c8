import NibbleCore

/// A 4-bit block codec with all that decides what its codes mean.
///
/// A tensor is flattened row by row and cut into blocks of `blockSize` elements, the last one perhaps short. A block
/// stores its greatest magnitude (absmax) and for each element the code of the nearest of 16 values, first element in
/// the high nibble. With double quantization the scales themselves become 8-bit codes, in blocks of
/// `nestedBlockSize`, around their mean.
public struct BlockCodec: Hashable, Sendable {
  /// The two tables of values.
  public enum Code: String, Sendable, CaseIterable { case nf4, fp4 }

  /// Which table the encoder uses.
  public var code: Code
  /// Elements that share a scale.
  public var blockSize: Int
  /// nil where scales stay float32.
  public var nested: Nested?
  /// The 16 values; a file's own when it differs from the standard table.
  public var codebook: Codebook

  /// How scales are coded.
  public struct Nested: Hashable, Sendable {
    /// Scales that share a scale of their own.
    public var blockSize: Int
    /// The 256 values.
    public var codebook: Codebook

    /// The standard coding of scales, unless said otherwise.
    public init(blockSize: Int = 256, codebook: Codebook = .dynamic) {
      self.blockSize = blockSize
      self.codebook = codebook
    }
  }

  /// The block sizes bitsandbytes knows.
  public static let blockSizes = [32, 64, 128, 256, 512, 1024, 2048, 4096]

  /// - Parameter codebook: nil for the standard table
  public init(_ code: Code, blockSize: Int = 64, nested: Nested? = Nested(), codebook: Codebook? = nil) {
    self.code = code
    self.blockSize = blockSize
    self.nested = nested
    self.codebook = codebook ?? (code == .nf4 ? .nf4 : .fp4)
  }

  /// Bytes of the codes of `count` elements.
  public func codeBytes(_ count: Int) -> Int { count / 2 + count % 2 }
  /// Blocks of `count` elements, a short last one included.
  public func blocks(_ count: Int) -> Int { ceilDivide(count, blockSize) }
  /// Blocks of scales of `count` elements; 0 without double quantization.
  public func nestedBlocks(_ count: Int) -> Int { nested.map { ceilDivide(blocks(count), $0.blockSize) } ?? 0 }

  /// Bytes of all sections of `count` elements.
  public func storedBytes(_ count: Int) -> Int {
    codeBytes(count) + (nested == nil ? 4 * blocks(count) : blocks(count) + 4 * nestedBlocks(count) + 4)
  }

  /// "nf4, block 64, double quantized".
  public var summary: String {
    "\(code.rawValue), block \(blockSize)" + (nested == nil ? "" : ", double quantized")
  }
}

/// Whose corner cases an encoder follows where bitsandbytes' own kernels part: blocks of zeros, short last blocks,
/// subnormal and huge scales, ties of scale codes.
public enum EncodingRules: String, Sendable, CaseIterable {
  /// The CUDA rule, except that a block of zeros takes the code for zero.
  case nearest
  case cuda, cpu
}
