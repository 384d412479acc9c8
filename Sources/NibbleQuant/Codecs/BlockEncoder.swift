import NibbleCore

/// Elements into 4-bit codes.
///
/// Codes leave chunk by chunk; scales are kept until the last block is known, because double quantization is relative to the mean of
/// all. What a reader makes of the scales replaces them then.
final class BlockEncoder: TensorEncoder, BlockScales, @unchecked Sendable {
  let codec: BlockCodec
  let task: EncodingTask
  /// The scale of each block.
  let absmax: UnsafeMutableBufferPointer<Float>
  /// For each block Σe·q and Σq², which tell what a change of its scale costs.
  private let moments: UnsafeMutablePointer<Float>
  private var coded: CodedScales?

  private enum Slot { static let absmax = 0, moments = 1, scaleCodes = 2, nested = 3 }

  init(_ codec: BlockCodec, _ task: EncodingTask) {
    (self.codec, self.task) = (codec, task)
    let blocks = codec.blocks(task.count)
    absmax = task.memory.floats(Slot.absmax, blocks)
    moments = task.memory.floatStart(Slot.moments, 2 * blocks)
  }

  var grain: Int { codec.blockSize }
  var needsScan: Bool { task.search.searches }
  var settlesAtOnce: Bool { false }

  private func scales(_ start: Int) -> UnsafeMutablePointer<Float> {
    // Chunks have elements, and so blocks.
    (absmax.baseAddress ?? moments) + start / codec.blockSize
  }

  func scan(_ elements: Elements, _ scratch: Scratch) -> EncodeCounts {
    let scales = scales(elements.start)
    if task.search.searches {
      return Kernels.searchScales(
        codec, bothSigns: task.search == .mseSigned, elements.dtype, elements.x, count: elements.count, scales: scales)
    }
    let codes = scratch.start(CodecSlot.codes, codec.codeBytes(elements.count)).assumingMemoryBound(to: UInt8.self)
    return Kernels.encode(
      codec, task.rules, elements.dtype, elements.x, count: elements.count, codes: codes, absmax: scales, moments: nil)
  }

  func endScan(_ counts: EncodeCounts) throws { coded = try code(counts, measuring: false) }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let codes = scratch.start(CodecSlot.codes, codec.codeBytes(count)).assumingMemoryBound(to: UInt8.self)
    let found = scratch.floatStart(CodecSlot.moments, 3 * codec.blocks(count))
    let scales = scales(elements.start)
    let counts =
      coded == nil
      ? Kernels.encode(
        codec, task.rules, elements.dtype, elements.x, count: count, codes: codes, absmax: scales, moments: found)
      : Kernels.encode(codec, scales: scales, elements.dtype, elements.x, count: count, codes: codes, moments: found)
    var sums = Self.sum(found, scales, codec.blocks(count), keeping: moments + 2 * (elements.start / codec.blockSize))
    sums.counts = counts
    return (UnsafeRawBufferPointer(start: codes, count: codec.codeBytes(count)), sums)
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    if coded == nil {
      let scales = try code(sums.counts, measuring: codec.nested != nil)
      sums += EncodedSums(error: scales.extraError)
      coded = scales
    }
    sums.error = sums.error.map(notBelowZero)
    return coded?.sections ?? []
  }

  /// Values into codes and back, by the rules of the task and the scales a reader restores.
  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    let codes = scratch.start(CodecSlot.codes, codec.codeBytes(count)).assumingMemoryBound(to: UInt8.self)
    let scales = scales(start)
    if task.search.searches {
      _ = Kernels.encode(codec, scales: scales, .f32, values, count: count, codes: codes, moments: nil)
    } else {
      let own = scratch.floatStart(CodecSlot.absmax, codec.blocks(count))
      _ = Kernels.encode(codec, task.rules, .f32, values, count: count, codes: codes, absmax: own, moments: nil)
    }
    Kernels.decode(codec, codes: codes, count: count, absmax: scales, .f32, values)
  }

  /// Σ(x − a·q)² and Σx² from the moments of blocks with scales a; Σe·q and Σq² go to `kept`.
  private static func sum(
    _ moments: UnsafePointer<Float>, _ scales: UnsafePointer<Float>, _ blocks: Int, keeping kept: UnsafeMutablePointer<Float>
  ) -> EncodedSums {
    var error = 0.0
    var signal = 0.0
    for block in 0..<blocks {
      let ee = moments[3 * block]
      let eq = moments[3 * block + 1]
      let qq = moments[3 * block + 2]
      kept[2 * block] = eq
      kept[2 * block + 1] = qq
      let a = scales[block]
      // Blocks with NaN or infinite elements have no error to speak of; their elements are counted elsewhere.
      guard a.isFinite, a != 0, ee.isFinite, eq.isFinite, qq.isFinite else { continue }
      let square = Double(a) * Double(a)
      error += square * Double(ee)
      signal += square * (Double(ee) + 2 * Double(eq) + Double(qq))
    }
    return EncodedSums(error: error, signal: signal)
  }
}

// MARK: Scales

extension BlockEncoder {
  /// Scales as the sections behind the codes hold them.
  private struct CodedScales {
    var sections: [UnsafeRawBufferPointer]
    /// What coding the scales adds to the squared error.
    var extraError = 0.0
  }

  private func code(_ counts: EncodeCounts, measuring: Bool) throws -> CodedScales {
    guard let nested = codec.nested else { return CodedScales(sections: [UnsafeRawBufferPointer(absmax)]) }
    let offset = task.memory.floats(Slot.nested, 1 + codec.nestedBlocks(task.count))
    offset[0] = ScaleCoder.offset(of: UnsafeBufferPointer(absmax))
    guard offset[0].isFinite else {
      throw NibbleError.quality(
        "\(task.place) has \(counts.nonfinite) NaN or infinite values, which double quantization "
          + "would spread over the whole tensor; keep it (\(.keep)) or use \(.doubleQuant, false) with \(.allowNonfinite)")
    }
    let codes = task.memory.bytes(Slot.scaleCodes, absmax.count)
    let chunk = 256 * nested.blockSize
    let extra = PerChunk<Double>(ceilDivide(absmax.count, chunk))
    let shared = Unchecked((offset, codes))
    try forEachChunk(ceilDivide(absmax.count, chunk), threads: task.threads, task.pool) { [self] index, scratch, _ in
      let (offset, codes) = shared.value
      let start = index * chunk
      let count = min(chunk, absmax.count - start)
      let restored = scratch.floatStart(CodecSlot.left, count)
      guard let nestedScales = offset.baseAddress, let codes = codes.baseAddress?.assumingMemoryBound(to: UInt8.self),
        let absmax = absmax.baseAddress
      else { return }
      let scales = UnsafeBufferPointer(start: absmax + start, count: count)
      let nestedAt = nestedScales + 1 + start / nested.blockSize
      ScaleCoder.encode(
        scales, offset: offset[0], blockSize: nested.blockSize, task.rules, codes: codes + start, nestedAbsmax: nestedAt)
      ScaleCoder.decode(
        UnsafeBufferPointer(start: codes + start, count: count), map: nested.codebook, nestedAbsmax: nestedAt,
        blockSize: nested.blockSize, offset: offset[0], absmax: restored)
      if measuring { extra.set(index, Self.extraError(scales, restored, moments + 2 * start)) }
      // From here on the scales are what a reader will make of them.
      (absmax + start).update(from: restored, count: count)
    }
    return CodedScales(
      sections: [
        UnsafeRawBufferPointer(codes), UnsafeRawBufferPointer(UnsafeMutableBufferPointer(rebasing: offset[1...])),
        UnsafeRawBufferPointer(UnsafeMutableBufferPointer(rebasing: offset[..<1])),
      ], extraError: extra.values.reduce(0, +))
  }

  /// With scale a replaced by a′ and δ = a − a′, Σ(x − a′q)² = a²Σe² + 2aδΣe·q + δ²Σq²: the last two terms.
  private static func extraError(
    _ scales: UnsafeBufferPointer<Float>, _ restored: UnsafePointer<Float>, _ moments: UnsafePointer<Float>
  ) -> Double {
    var error = 0.0
    for block in 0..<scales.count {
      let a = scales[block]
      let delta = Double(a) - Double(restored[block])
      let qq = Double(moments[2 * block + 1])
      let eq = Double(moments[2 * block])
      guard a.isFinite, eq.isFinite, qq.isFinite else { continue }
      error += delta * delta * qq
      if a != 0 { error += 2 * Double(a) * delta * eq }
    }
    return error
  }
}
