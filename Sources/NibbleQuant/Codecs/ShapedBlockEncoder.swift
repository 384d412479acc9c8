import NibbleCore

/// Elements into 4-bit codes that are chosen, row by row, so that a change survives. A tensor that is packed already keeps its scales.
final class ShapedBlockEncoder: ShapingEncoder, @unchecked Sendable {
  private let codec: BlockCodec
  private let columns: Int
  private let memory: Scratch
  /// Finds scales; nil where there are some.
  private let own: (any TensorEncoder & BlockScales)?
  private let kept: (any KeptBlockScales)?
  private var shaper: Shaper

  private static let keptSlot = 8

  let strengths: [Double] = [1e3, 3e3, 1e4, 3e4, 1e5]

  /// - Parameters:
  ///   - kept: the scales that the tensor has
  ///   - own: what finds them otherwise
  init(
    _ codec: BlockCodec, _ task: EncodingTask, _ space: RowSpace, keeping kept: (any KeptBlockScales)?,
    own: (any TensorEncoder & BlockScales)?
  ) {
    (self.codec, self.kept, self.own, columns) = (codec, kept, own, space.columns)
    memory = task.memory
    shaper = Shaper(codec, right: space.start, rank: space.rank, columns: space.columns)
  }

  /// Whole registers of rows that are whole blocks.
  var grain: Int { leastCommonMultiple(16 * columns, codec.blockSize) }
  var needsScan: Bool { own != nil }

  func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts { own?.scan(elements, scratch) ?? EncodeCounts() }

  func endScan(_ counts: EncodeCounts) throws { try own?.endScan(counts) }

  func shape(_ strength: Double) { shaper = shaper.compensating(strength) }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let codes = scratch.start(CodecSlot.codes, count).assumingMemoryBound(to: UInt8.self)
    let values = restored ?? scratch.floatStart(CodecSlot.right, count)
    let wanted = elements.x.assumingMemoryBound(to: Float.self)
    var difference = Difference()
    if let blocks: any BlockScales = own ?? kept, let scales = blocks.absmax.baseAddress {
      let offsets = blocks.offsets.map { $0 + elements.start / codec.blockSize }
      // What codes stand for, without offsets.
      let left = offsets == nil ? wanted : scratch.floatStart(CodecSlot.wide, count)
      if let offsets {
        left.update(from: wanted, count: count)
        Kernels.subtract(offsets: offsets, block: codec.blockSize, left, count: count)
      }
      _ = shaper.pack(left, element: elements.start, rows: count / columns, scales: scales, codes: codes, values: values)
      if let offsets { Kernels.add(offsets: offsets, block: codec.blockSize, values, count: count) }
      difference.add(wanted, values, count: count)
    }
    return (
      UnsafeRawBufferPointer(start: codes, count: codec.codeBytes(count)),
      EncodedSums(error: difference.squaredDifference, signal: difference.squaredA)
    )
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    if let own { return try own.finish(&sums) }
    return (kept?.sections ?? []).enumerated().map { index, bytes in
      let copy = memory.bytes(Self.keptSlot + index, bytes.count)
      copy.copyBytes(from: bytes)
      return UnsafeRawBufferPointer(copy)
    }
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    own?.restore(values, start, count, scratch)
  }
}
