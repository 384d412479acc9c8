import NibbleCore

extension CodecKind {
  /// NF4 with an offset a block.
  public static let nf4Offsets: CodecKind = CodecKind(
    number: 5, name: "nf4-offsets", askedAs: BlockCodec.Code.nf4.name, hasBlocks: true, hasOffsets: true,
    make: { OffsetBlocks(blockSize: $0.blockSize, nested: $0.doubleQuant ? .init() : nil) }, read: { try OffsetBlocks.read(&$0) })
}

/// NF4 with an offset a block: element = value of the code · scale + offset.
///
/// Offsets are stored as scales are with double quantization, 8-bit codes under a scale for each 256 of them, but around 0 and not their mean:
/// 4.254 bits a weight in blocks of 64. What finds them is `OffsetSearch`.
public struct OffsetBlocks: WeightCodec {
  /// The codec of what is left when offsets are taken off.
  public private(set) var blocks: BlockCodec
  /// How offsets are coded.
  public private(set) var offsets: BlockCodec.Nested

  /// - Parameter nested: nil where scales stay float32
  public init(blockSize: Int = 64, nested: BlockCodec.Nested? = .init(), offsets: BlockCodec.Nested = .init()) {
    (blocks, self.offsets) = (BlockCodec(.nf4, blockSize: blockSize, nested: nested), offsets)
  }

  package var kind: CodecKind { .nf4Offsets }
  public var summary: String { blocks.summary + ", offsets" }
  package var description: [(key: String, value: JSON)] { blocks.description + [("offset_block_size", JSON(offsets.blockSize))] }
  package var codebooks: [Codebook] { blocks.codebooks + [offsets.codebook] }

  // MARK: On disk

  package func sections(_ dtype: DType, _ shape: [Int]) -> [SectionLength] {
    let count = blocks.blocks(elementCount(of: shape) ?? 0)
    return blocks.sections(dtype, shape) + [(.offsetCodes, count), (.offsetScales, 4 * ceilDivide(count, offsets.blockSize))]
  }

  package func writeParameters(_ parameters: inout CodecParameters) {
    blocks.writeParameters(&parameters)
    parameters.out.u32(offsets.blockSize)
    parameters.out.u16(parameters.number(of: offsets.codebook))
    parameters.out.u16(0)
  }

  fileprivate static func read(_ parameters: inout CodecParameters) throws -> OffsetBlocks? {
    guard let blocks = try BlockCodec.read(.nf4, &parameters) else { return nil }
    let (size, book) = (try parameters.input.u32(), try parameters.input.u16())
    guard try parameters.input.u16() == 0, 1...1 << 20 ~= size, let codebook = parameters.codebook(book, values: 256) else { return nil }
    var codec = OffsetBlocks(offsets: BlockCodec.Nested(blockSize: size, codebook: codebook))
    codec.blocks = blocks
    return codec
  }

  package func writeIdentity(_ out: inout ByteWriter) {
    blocks.writeIdentity(&out)
    out.u32(offsets.blockSize)
    out.append(offsets.codebook.bytes)
  }

  // MARK: At work

  package var canShape: Bool { true }
  package func encoder(_ task: EncodingTask) -> any TensorEncoder { OffsetEncoder(self, task) }

  package func shapingEncoder(
    _ task: EncodingTask, _ space: RowSpace, keeping source: (any TensorDecoder)?
  ) -> (any ShapingEncoder)? {
    let kept = source as? OffsetDecoder
    return ShapedBlockEncoder(blocks, task, space, keeping: kept, own: kept == nil ? OffsetEncoder(self, task) : nil)
  }

  package func decoder(_ dtype: DType, _ shape: [Int], _ sections: [[UInt8]], _ memory: Scratch) -> any TensorDecoder {
    OffsetDecoder(self, count: elementCount(of: shape) ?? 0, sections, memory)
  }

  package func memory(_ work: CodecWork, _ shape: [Int], chunk: Int) -> CodecMemory {
    let count = elementCount(of: shape) ?? 0
    var memory = blocks.memory(work, shape, chunk: chunk)
    memory.perTensor += 17 * blocks.blocks(count)
    if case .decoding = work { return memory }
    memory.perThread += 8 * min(count, 2 * chunk)
    return memory
  }

  /// The offset of each block as a reader restores it.
  package func restoredOffsets(codes: UnsafeBufferPointer<UInt8>, scales: UnsafePointer<Float>, _ out: UnsafeMutablePointer<Float>) {
    ScaleCoder.decode(codes, map: offsets.codebook, nestedAbsmax: scales, blockSize: offsets.blockSize, offset: 0, absmax: out)
  }
}

/// The restored scales and offsets of a tensor.
final class OffsetDecoder: KeptBlockScales, @unchecked Sendable {
  let codec: OffsetBlocks
  private let blocks: BlockDecoder
  let sections: [[UInt8]]
  let offsets: UnsafeMutablePointer<Float>?
  private static let offsetSlot = 1
  /// Elements decoded at a time: whole blocks of any size.
  private static let piece = 4096

  init(_ codec: OffsetBlocks, count: Int, _ sections: [[UInt8]], _ memory: Scratch) {
    (self.codec, self.sections) = (codec, sections)
    blocks = BlockDecoder(codec.blocks, count: count, Array(sections.dropLast(2)), memory)
    let restored = memory.floatStart(Self.offsetSlot, max(codec.blocks.blocks(count), 1))
    offsets = restored
    sections[sections.count - 2].withUnsafeBufferPointer { codes in
      sections[sections.count - 1].withUnsafeBytes { scales in
        guard let scales = scales.baseAddress else { return }
        codec.restoredOffsets(codes: codes, scales: scales.assumingMemoryBound(to: Float.self), restored)
      }
    }
  }

  var absmax: UnsafeMutableBufferPointer<Float> { blocks.absmax }
  var grain: Int { blocks.grain }
  func codes(_ start: Int, _ count: Int) -> Range<Int> { blocks.codes(start, count) }

  func decode(_ codes: UnsafeRawPointer, _ start: Int, _ count: Int, _ dtype: DType, _ out: UnsafeMutableRawPointer) {
    guard let offsets else { return }
    withUnsafeTemporaryAllocation(of: Float.self, capacity: Self.piece) { buffer in
      guard let values = buffer.baseAddress else { return }
      for done in stride(from: 0, to: count, by: Self.piece) {
        let (first, part) = (start + done, min(Self.piece, count - done))
        blocks.decode(codes + done / 2, first, part, .f32, values)
        Kernels.add(offsets: offsets + first / grain, block: grain, values, count: part)
        Kernels.narrow(dtype, values, count: part, out + done * (dtype.bitWidth / 8))
      }
    }
  }
}
