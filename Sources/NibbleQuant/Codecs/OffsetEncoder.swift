import NibbleCore

/// Elements into 4-bit codes of what is left of them without their block's offset.
///
/// The scan finds offsets, unless the tensor has some and keeps them. They are coded relative to the greatest of 256, so codes follow in a second pass, when a reader's offsets are
/// known. A block's least and greatest element then give its scale without another look at it.
final class OffsetEncoder: TensorEncoder, BlockScales, @unchecked Sendable {
  private let codec: OffsetBlocks
  private let task: EncodingTask
  private let base: BlockEncoder
  private let kept: OffsetDecoder?
  private let count: Int
  /// As they were found, and as a reader restores them.
  private let found, restored: UnsafeMutablePointer<Float>
  /// The least and greatest element of each block.
  private let ends: UnsafeMutablePointer<Float>
  private let codes: UnsafeMutableBufferPointer<UInt8>
  private let scales: UnsafeMutableBufferPointer<Float>
  private var zeroBlocks = 0

  // Those below belong to the encoder of blocks.
  private enum Slot { static let numbers = 4, codes = 5, scales = 6 }

  init(_ codec: OffsetBlocks, _ task: EncodingTask) {
    (self.codec, self.task) = (codec, task)
    kept = (task.source as? OffsetDecoder).flatMap { task.offsets.keepsOffsets && $0.codec == codec ? $0 : nil }
    base = BlockEncoder(codec.blocks, task)
    count = codec.blocks.blocks(task.count)
    found = task.memory.floatStart(Slot.numbers, max(4 * count, 1))
    (restored, ends) = (found + count, found + 2 * count)
    codes = task.memory.bytes(Slot.codes, count).bindMemory(to: UInt8.self)
    scales = task.memory.floats(Slot.scales, ceilDivide(count, codec.offsets.blockSize))
  }

  var grain: Int { codec.blocks.blockSize }
  var needsScan: Bool { true }
  var settlesAtOnce: Bool { false }
  var absmax: UnsafeMutableBufferPointer<Float> { base.absmax }
  var offsets: UnsafeMutablePointer<Float>? { restored }

  func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts {
    let values = scratch.floatStart(CodecSlot.wide, elements.count)
    Kernels.widen(elements.dtype, elements.x, count: elements.count, values)
    let first = elements.start / grain
    if let own = kept?.offsets { (found + first).update(from: own + first, count: codec.blocks.blocks(elements.count)) }
    return Kernels.findOffsets(
      kept == nil ? task.offsets : nil, values, count: elements.count, block: grain, offsets: found + first, ends: ends + 2 * first)
  }

  func endScan(_ counts: EncodeCounts) throws {
    if let to = codes.baseAddress, let scaleStart = scales.baseAddress, let absmax = base.absmax.baseAddress {
      if let sections = kept?.sections.suffix(2), let keptCodes = sections.first, let keptScales = sections.last {
        UnsafeMutableRawBufferPointer(codes).copyBytes(from: keptCodes)
        UnsafeMutableRawBufferPointer(scales).copyBytes(from: keptScales)
      } else {
        ScaleCoder.encode(
          UnsafeBufferPointer(start: found, count: count), offset: 0, blockSize: codec.offsets.blockSize, .nearest, codes: to,
          nestedAbsmax: scaleStart)
      }
      codec.restoredOffsets(codes: UnsafeBufferPointer(codes), scales: scaleStart, restored)
      if task.offsets.roundsFirst { found.update(from: restored, count: count) }
      zeroBlocks = Kernels.offsetScales(ends: ends, offsets: found, blocks: count, absmax)
    }
    try base.endScan(counts)
  }

  func encode(
    _ elements: Elements, restored values: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let wanted = scratch.floatStart(CodecSlot.wide, elements.count)
    let values = values ?? scratch.floatStart(CodecSlot.right, elements.count)
    Kernels.widen(elements.dtype, elements.x, count: elements.count, wanted)
    values.update(from: wanted, count: elements.count)
    var (codes, counts) = round(values, elements.start, elements.count, scratch)
    var difference = Difference()
    difference.add(wanted, values, count: elements.count)
    // Blocks of zeros are counted when all are encoded.
    counts.zeroBlocks = 0
    var sums = EncodedSums(error: difference.squaredDifference, signal: difference.squaredA)
    sums.counts = counts
    return (UnsafeRawBufferPointer(start: codes, count: codec.blocks.codeBytes(elements.count)), sums)
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    sums.counts.zeroBlocks = zeroBlocks
    return try base.finish(&sums) + [UnsafeRawBufferPointer(codes), UnsafeRawBufferPointer(scales)]
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    _ = round(values, start, count, scratch)
  }

  /// Values into codes and what a reader sees of them.
  private func round(
    _ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch
  ) -> (codes: UnsafeMutablePointer<UInt8>, counts: EncodeCounts) {
    let blocks = codec.blocks, first = start / grain
    let codes = scratch.start(CodecSlot.codes, blocks.codeBytes(count)).assumingMemoryBound(to: UInt8.self)
    let own = scratch.floatStart(CodecSlot.absmax, blocks.blocks(count))
    Kernels.subtract(offsets: found + first, block: grain, values, count: count)
    let counts = Kernels.encode(blocks, task.rules, .f32, values, count: count, codes: codes, absmax: own, moments: nil)
    // Chunks have elements, and so blocks.
    Kernels.decode(blocks, codes: codes, count: count, absmax: (absmax.baseAddress ?? own) + first, .f32, values)
    Kernels.add(offsets: restored + first, block: grain, values, count: count)
    return (codes, counts)
  }
}
