import NibbleCore
import NibbleQuant

extension TensorStream {
  /// The scales a tensor would have had without its change; nil where it stays the codes it is.
  func scalesWithoutChange(_ pass: PackingPass, _ transposing: Bool) throws -> CodedScales? {
    guard !pass.source.isPacked else { return nil }
    let blocks = pass.codec.blocks(pass.source.count)
    let feed = try ElementFeed(pass.source, transposing: transposing, changedBy: nil, whole)
    let base = PackingPass(
      source: pass.source, codec: pass.codec, feed: feed, absmax: Unchecked(whole.floats(Slot.baseAbsmax, blocks)),
      moments: Unchecked(whole.floats(Slot.baseSums, 2 * blocks)), chunk: pass.chunk)
    if encoder == .mse { return try code(base, searchScales(base).counts) }
    let counts = PerChunk<EncodeCounts>(base.chunks)
    try forEachChunk(base.chunks, threads: threads, pool) { [rules] index, scratch, _ in
      let count = base.count(index)
      let piece = try feed.read(index * base.chunk, count, scratch)
      let codes = scratch.bytes(Slot.output, base.codec.codeBytes(count))
      guard let from = piece.x, let scales = base.absmax.value.baseAddress,
        let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      else { return }
      counts.set(
        index,
        Kernels.encode(
          base.codec, rules, feed.dtype, from, count: count, codes: out, absmax: scales + base.block(index), moments: nil))
    }
    // Nobody asks for this error.
    base.moments.value.initialize(repeating: 0)
    return try code(base, counts.values.reduce(into: EncodeCounts()) { $0 += $1 })
  }

  /// What became of a tensor's change: everything is read and encoded once more, now that the scales are known.
  ///
  /// - Parameters:
  ///   - scales: as a reader restores them
  ///   - without: the scales without the change; nil where the tensor would stay the codes it is
  func measure(
    _ pass: PackingPass, _ scales: Unchecked<UnsafeMutablePointer<Float>>, _ without: Unchecked<UnsafeMutablePointer<Float>>?
  ) throws -> ChangeSums {
    let sums = PerChunk<ChangeSums>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { [rules, encoder] index, scratch, _ in
      let count = pass.count(index)
      let piece = try pass.feed.read(index * pass.chunk, count, scratch)
      let codes = scratch.bytes(Slot.output, pass.codec.codeBytes(count))
      let own = scratch.floatStart(Slot.moments, pass.codec.blocks(count))
      guard let x = piece.x?.assumingMemoryBound(to: Float.self), let base = piece.base, let delta = piece.delta,
        let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      else { return }
      /// Values as they come back from codes.
      func round(_ values: UnsafeMutablePointer<Float>, _ scales: UnsafeMutablePointer<Float>) {
        if encoder == .mse {
          _ = Kernels.encode(pass.codec, scales: scales, .f32, values, count: count, codes: out, moments: nil)
        } else {
          _ = Kernels.encode(pass.codec, rules, .f32, values, count: count, codes: out, absmax: own, moments: nil)
        }
        Kernels.decode(pass.codec, codes: out, count: count, absmax: scales, .f32, values)
      }
      round(x, scales.value + pass.block(index))
      if let without { round(base, without.value + pass.block(index)) }
      sums.set(index, ChangeKernels.measure(base: base, written: x, delta: delta, count: count))
    }
    return sums.values.reduce(into: ChangeSums()) { $0 += $1 }
  }
}
