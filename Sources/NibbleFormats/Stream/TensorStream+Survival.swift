import NibbleCore
import NibbleQuant

extension TensorStream {
  /// The scales a tensor would have had without its change; nil where it stays the codes it is.
  func scalesWithoutChange(_ pass: PackingPass, _ transposing: Bool) throws -> CodedScales? {
    guard !pass.source.isPacked else { return nil }
    let blocks = pass.codec.blocks(pass.source.count)
    return try scales(
      PackingPass(
        source: pass.source, codec: pass.codec,
        feed: ElementFeed(pass.source, transposing: transposing, changedBy: nil, whole),
        absmax: Unchecked(whole.floats(Slot.baseAbsmax, blocks)), moments: Unchecked(whole.floats(Slot.baseSums, 2 * blocks)),
        chunk: pass.chunk))
  }

  /// The scales of a tensor, without writing its codes.
  func scales(_ pass: PackingPass) throws -> CodedScales {
    if encoder.searches { return try code(pass, searchScales(pass).counts) }
    let counts = PerChunk<EncodeCounts>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { [rules] index, scratch, _ in
      let count = pass.count(index)
      let piece = try pass.feed.read(index * pass.chunk, count, scratch)
      let codes = scratch.bytes(Slot.output, pass.codec.codeBytes(count))
      guard let from = piece.x, let scales = pass.absmax.value.baseAddress,
        let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      else { return }
      counts.set(
        index,
        Kernels.encode(
          pass.codec, rules, pass.feed.dtype, from, count: count, codes: out, absmax: scales + pass.block(index), moments: nil))
    }
    // Nobody asks for this error.
    pass.moments.value.initialize(repeating: 0)
    return try code(pass, counts.values.reduce(into: EncodeCounts()) { $0 += $1 })
  }

  /// What plain rounding would make of a change.
  func roundingSurvival(_ source: StoredTensor, _ change: any TensorChange, as target: TensorTarget) throws -> ChangeSums {
    guard let codec = target.encoding.codec else { return ChangeSums() }
    let transposing = target.isTransposed != source.isTransposed
    let blocks = codec.blocks(source.count)
    let pass = PackingPass(
      source: source, codec: codec, feed: try ElementFeed(source, transposing: transposing, changedBy: change, whole),
      absmax: Unchecked(whole.floats(Slot.absmax, blocks)), moments: Unchecked(whole.floats(Slot.sums, 2 * blocks)),
      chunk: Self.chunkElements)
    let without = try scalesWithoutChange(pass, transposing)
    guard let restored = try scales(pass).restored else { return ChangeSums() }
    return try measure(pass, restored, without?.restored)
  }

  /// What became of a tensor's change: everything is read and encoded once more, now that the scales are known.
  ///
  /// - Parameters:
  ///   - scales: as a reader restores them
  ///   - without: the scales without the change; nil where the tensor would stay the codes it is
  func measure(
    _ pass: PackingPass, _ scales: Unchecked<UnsafeMutablePointer<Float>>, _ without: Unchecked<UnsafeMutablePointer<Float>>?
  ) throws -> ChangeSums {
    guard let change = pass.feed.change else { return ChangeSums() }
    let meter = ChangeMeter(change)
    let pieces = PerChunk<ChangeMeter.Piece>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { [rules, encoder] index, scratch, _ in
      let count = pass.count(index)
      let piece = try pass.feed.read(index * pass.chunk, count, scratch)
      let codes = scratch.bytes(Slot.output, pass.codec.codeBytes(count))
      let own = scratch.floatStart(Slot.moments, pass.codec.blocks(count))
      guard let x = piece.x?.assumingMemoryBound(to: Float.self), let base = piece.base, let delta = piece.delta,
        let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      else { return }
      let rounding = Rounding(codec: pass.codec, rules: rules, encoder: encoder, codes: out, absmax: own)
      rounding.apply(x, count, scales.value + pass.block(index))
      if let without { rounding.apply(base, count, without.value + pass.block(index)) }
      pieces.set(
        index, meter.measure(index * pass.chunk, count, base: base, written: x, delta: delta, scratch))
    }
    return ChangeMeter.Piece.total(pieces.values)
  }
}

/// Values into codes and back, by the rules of a job.
struct Rounding {
  let codec: BlockCodec
  let rules: EncodingRules
  let encoder: StreamJob.Encoder
  let codes: UnsafeMutablePointer<UInt8>
  let absmax: UnsafeMutablePointer<Float>

  /// - Parameter scales: as a reader restores them
  func apply(_ values: UnsafeMutablePointer<Float>, _ count: Int, _ scales: UnsafeMutablePointer<Float>) {
    if encoder.searches {
      _ = Kernels.encode(codec, scales: scales, .f32, values, count: count, codes: codes, moments: nil)
    } else {
      _ = Kernels.encode(codec, rules, .f32, values, count: count, codes: codes, absmax: absmax, moments: nil)
    }
    Kernels.decode(codec, codes: codes, count: count, absmax: scales, .f32, values)
  }
}
