import NibbleCore

/// A tensor's codes and the sections behind them, decided before the tensor is written.
package struct DecidedCodes: Sendable {
  package let codec: any WeightCodec
  /// Plain bytes, in the order of the codec's sections.
  package let sections: [[UInt8]]

  package init(_ codec: any WeightCodec, sections: [[UInt8]]) { (self.codec, self.sections) = (codec, sections) }

  /// An encoder that hands these codes out, whatever the elements are, and measures how far off they are.
  package func encoder(_ task: EncodingTask) -> any TensorEncoder { DecidedEncoder(self, task) }
}

private final class DecidedEncoder: TensorEncoder, @unchecked Sendable {
  private let decided: DecidedCodes
  private let task: EncodingTask
  private let decoder: any TensorDecoder
  private static let firstSlot = 8

  init(_ decided: DecidedCodes, _ task: EncodingTask) {
    (self.decided, self.task) = (decided, task)
    decoder = decided.codec.decoder(task.dtype, task.shape, Array(decided.sections.dropFirst()), task.memory)
  }

  var grain: Int { decoder.grain }

  func encode(
    _ elements: Elements, restored: UnsafeMutablePointer<Float>?, _ scratch: Scratch
  ) -> (codes: UnsafeRawBufferPointer, sums: EncodedSums) {
    let count = elements.count
    let values = restored ?? scratch.floatStart(CodecSlot.right, count)
    let wanted = scratch.floatStart(CodecSlot.wide, count)
    Kernels.widen(elements.dtype, elements.x, count: count, wanted)
    let range = decoder.codes(elements.start, count)
    let codes = scratch.bytes(CodecSlot.codes, range.count)
    decided.sections[0].withUnsafeBytes { codes.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[range])) }
    if let start = codes.baseAddress { decoder.decode(start, elements.start, count, .f32, values) }
    var difference = Difference()
    difference.add(wanted, values, count: count)
    var sums = EncodedSums(error: difference.squaredDifference, signal: difference.squaredA)
    sums.counts.nonfinite = difference.nonfinite
    return (UnsafeRawBufferPointer(codes), sums)
  }

  func finish(_ sums: inout EncodedSums) throws -> [UnsafeRawBufferPointer] {
    decided.sections.dropFirst().enumerated().map { index, bytes in
      let copy = task.memory.bytes(Self.firstSlot + index, bytes.count)
      copy.copyBytes(from: bytes)
      return UnsafeRawBufferPointer(copy)
    }
  }

  func restore(_ values: UnsafeMutablePointer<Float>, _ start: Int, _ count: Int, _ scratch: Scratch) {
    decided.sections[0].withUnsafeBytes { bytes in
      guard let codes = bytes.baseAddress else { return }
      decoder.decode(codes + decoder.codes(start, count).lowerBound, start, count, .f32, values)
    }
  }
}

extension WeightCodec {
  /// Elements encoded together, in memory.
  private static func chunk(_ grain: Int) -> Int { max(1, (1 << 18) / grain) * grain }

  /// The sections of a tensor whose values are in memory.
  ///
  /// - Throws: `.quality` where values that are not finite would spread
  package func encoded(_ values: UnsafeMutablePointer<Float>, _ task: EncodingTask) throws -> DecidedCodes {
    let encoder = encoder(task)
    if encoder.needsScan { try Self.scan(encoder, values, task) }
    let chunk = Self.chunk(encoder.grain), count = task.count
    let chunks = ceilDivide(count, chunk)
    let parts = PerChunk<([UInt8], EncodedSums)>(chunks)
    let shared = Unchecked(values)
    try forEachChunk(chunks, threads: task.threads, task.pool) { index, scratch, _ in
      let start = index * chunk
      let elements = Elements(UnsafeMutableRawPointer(shared.value + start), .f32, start: start, count: min(chunk, count - start))
      let (codes, sums) = encoder.encode(elements, restored: nil, scratch)
      parts.set(index, (Array(codes), sums))
    }
    var codes: [UInt8] = []
    var sums = EncodedSums()
    for (part, own) in parts.values {
      codes += part
      sums += own
    }
    return DecidedCodes(self, sections: [codes] + (try encoder.finish(&sums)).map { Array($0) })
  }

  /// The sections behind the codes, where scales are searched for before there are codes.
  package func searchedScales(_ values: UnsafeMutablePointer<Float>, _ task: EncodingTask) throws -> [[UInt8]] {
    let encoder = encoder(task)
    try Self.scan(encoder, values, task)
    var sums = EncodedSums()
    return try encoder.finish(&sums).map { Array($0) }
  }

  private static func scan(_ encoder: any TensorEncoder, _ values: UnsafeMutablePointer<Float>, _ task: EncodingTask) throws {
    let chunk = chunk(encoder.grain), count = task.count
    let chunks = ceilDivide(count, chunk)
    let counts = PerChunk<EncodeCounts>(chunks)
    let shared = Unchecked(values)
    try forEachChunk(chunks, threads: task.threads, task.pool) { index, scratch, _ in
      let start = index * chunk
      let elements = Elements(UnsafeMutableRawPointer(shared.value + start), .f32, start: start, count: min(chunk, count - start))
      counts.set(index, encoder.scan(elements, scratch))
    }
    try encoder.endScan(counts.values.reduce(into: EncodeCounts()) { $0 += $1 })
  }
}

extension BlockCodec {
  /// The scale of each block as a reader restores it, from the sections behind the codes.
  package func restoredScales(_ sections: [[UInt8]], count: Int) -> [Float] {
    let memory = Scratch()
    return withExtendedLifetime(memory) { Array(BlockDecoder(self, count: count, sections, memory).absmax) }
  }
}
