import CNibbleKernels
import NibbleCore

/// A 4-bit block codec with all that decides what its codes mean.
///
/// A tensor is flattened row by row and cut into blocks of `blockSize` elements, the last one perhaps short. A block
/// stores its greatest magnitude (absmax) and for each element the code of the nearest of 16 values, first element in
/// the high nibble. With double quantization the scales themselves become 8-bit codes, in blocks of
/// `nestedBlockSize`, around their mean.
public struct BlockCodec: WeightCodec {
  /// A table of 16 values and the encoder that finds the nearest of them: a file each.
  public struct Code: Hashable, Sendable {
    /// The codec's number on disk.
    let number: UInt16
    /// The codec's name on the command line and in bitsandbytes' states.
    public let name: String
    /// The values, by code.
    public let codebook: Codebook
    /// The kernels' encoder.
    let encoder: nibble_code
    /// The codec of these values with an offset a block; nil where there is none.
    let withOffsets: (@Sendable (CodecSettings) -> any WeightCodec)?

    /// Every table there is.
    public static let all: [Code] = [.nf4, .fp4]

    /// The table of a name; nil for others.
    public init?(name: String) {
      guard let known = Self.all.first(where: { $0.name == name }) else { return nil }
      self = known
    }

    init(
      number: UInt16, name: String, codebook: Codebook, encoder: nibble_code,
      withOffsets: (@Sendable (CodecSettings) -> any WeightCodec)? = nil
    ) {
      (self.number, self.name, self.codebook, self.encoder, self.withOffsets) = (number, name, codebook, encoder, withOffsets)
    }

    public static func == (a: Code, b: Code) -> Bool { a.number == b.number }
    public func hash(into hasher: inout Hasher) { hasher.combine(number) }
  }

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
    self.codebook = codebook ?? code.codebook
  }

  /// Bytes of the codes of `count` elements.
  public func codeBytes(_ count: Int) -> Int { count / 2 + count % 2 }
  /// Blocks of `count` elements, a short last one included.
  public func blocks(_ count: Int) -> Int { ceilDivide(count, blockSize) }
  /// Blocks of scales of `count` elements; 0 without double quantization.
  public func nestedBlocks(_ count: Int) -> Int { nested.map { ceilDivide(blocks(count), $0.blockSize) } ?? 0 }

  /// "nf4, block 64, double quantized".
  public var summary: String {
    "\(code.name), block \(blockSize)" + (nested == nil ? "" : ", double quantized")
  }
}

extension BlockCodec.Code {
  /// The line of this table's codec in the list of codecs.
  public var kind: CodecKind {
    CodecKind(
      number: number, name: name, hasBlocks: true,
      make: { settings in
        if settings.offsets, let withOffsets { return withOffsets(settings) }
        return BlockCodec(self, blockSize: settings.blockSize, nested: settings.doubleQuant ? .init() : nil)
      },
      read: { try BlockCodec.read(self, &$0) })
  }
}

// MARK: On disk

extension BlockCodec {
  package var kind: CodecKind { code.kind }
  package var canShape: Bool { true }
  package var description: [(key: String, value: JSON)] {
    [("block_size", JSON(blockSize)), ("double_quant", .bool(nested != nil))]
  }
  package var codebooks: [Codebook] { [codebook] + (nested.map { [$0.codebook] } ?? []) }

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    let count = elementCount(of: shape) ?? 0
    if nested == nil { return [(.codes, codeBytes(count)), (.scales, 4 * blocks(count))] }
    return [
      (.codes, codeBytes(count)), (.scaleCodes, blocks(count)), (.nestedScales, 4 * nestedBlocks(count)), (.nestedOffset, 4),
    ]
  }

  package func writeParameters(_ parameters: inout CodecParameters) {
    parameters.out.u32(blockSize)
    parameters.out.u32(nested?.blockSize ?? 0)
    parameters.out.u16(parameters.number(of: codebook))
    parameters.out.u16(parameters.number(of: nested?.codebook))
    parameters.out.u8(parameters.storage.tableCode)
    parameters.out.append([0, 0, 0])
  }

  static func read(_ code: Code, _ parameters: inout CodecParameters) throws -> BlockCodec? {
    let (blockSize, nestedSize) = (try parameters.input.u32(), try parameters.input.u32())
    let (book, nestedBook) = (try parameters.input.u16(), try parameters.input.u16())
    let storage = DType(tableCode: try parameters.input.u8())
    guard try parameters.input.take(3) == [0, 0, 0], let storage, blockSizes.contains(blockSize), nestedSize <= 1 << 20,
      let codebook = parameters.codebook(book, values: 16)
    else { return nil }
    parameters.storage = storage
    if nestedSize == 0 {
      return nestedBook == CodecParameters.noCodebook ? BlockCodec(code, blockSize: blockSize, nested: nil, codebook: codebook) : nil
    }
    return parameters.codebook(nestedBook, values: 256).map {
      BlockCodec(code, blockSize: blockSize, nested: Nested(blockSize: nestedSize, codebook: $0), codebook: codebook)
    }
  }

  package func writeIdentity(_ out: inout ByteWriter) {
    out.u32(blockSize)
    out.u32(nested?.blockSize ?? 0)
    for codebook in codebooks { out.append(codebook.bytes) }
  }
}

// MARK: At work

extension BlockCodec {
  package func encoder(_ task: EncodingTask) -> any TensorEncoder { BlockEncoder(self, task) }

  package func shapingEncoder(
    _ task: EncodingTask, _ space: RowSpace, keeping source: (any TensorDecoder)?
  ) -> (any ShapingEncoder)? {
    let kept = source as? BlockDecoder
    return ShapedBlockEncoder(self, task, space, keeping: kept, own: kept == nil ? BlockEncoder(self, task) : nil)
  }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    BlockDecoder(self, count: elementCount(of: shape) ?? 0, sections, memory)
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    let count = elementCount(of: shape) ?? 0
    switch work {
    case .encoding(let dtype, let transposing):
      let elements = min(count, chunk)
      return CodecMemory(
        perThread: elements * max(1, dtype.bitWidth / 8) * (transposing ? 2 : 1) + elements / 2 + 12 * blocks(elements),
        perTensor: blocks(count) * (nested == nil ? 12 : 13))
    case .decoding(let dtype):
      let elements = min(count, 2 * chunk)
      return CodecMemory(perThread: elements / 2 + elements * dtype.bitWidth / 8, perTensor: 6 * blocks(count))
    case .changing: return CodecMemory(perThread: 0, perTensor: 25 * blocks(count))
    }
  }
}
