import NibbleCore
import NibbleQuant

extension TensorStream {
  /// How strongly debts are paid back: the first that keeps enough of the change is taken.
  private static let strengths: [Double] = [1e3, 3e3, 1e4, 3e4, 1e5]
  private static let enough = 0.95

  /// Codes chosen so that the change survives, in whole rows. A packed source keeps its scales; a plain one gets those of the changed
  /// values.
  func packShaped(
    _ source: StoredTensor, _ codec: BlockCodec, _ target: TensorTarget, into writers: [SectionWriter],
    _ change: any TensorChange, _ space: RowSpace
  ) throws -> TensorOutcome {
    guard space.rank <= Shaper.mostRanks else {
      throw NibbleError.usage(
        "tensor \(quoted(source.name.text)): a change of rank \(space.rank) is not shaped; \(Shaper.mostRanks) is the limit")
    }
    let transposing = target.isTransposed != source.isTransposed
    let blocks = codec.blocks(source.count)
    // Whole blocks and whole registers of rows.
    let step = max(16, codec.blockSize >> min(space.columns.trailingZeroBitCount, codec.blockSize.trailingZeroBitCount))
    let rows = max(step, Self.chunkElements / space.columns / step * step)
    let pass = PackingPass(
      source: source, codec: codec, feed: try ElementFeed(source, transposing: transposing, changedBy: change, whole),
      absmax: Unchecked(whole.floats(Slot.absmax, blocks)), moments: Unchecked(whole.floats(Slot.sums, 2 * blocks)),
      chunk: rows * space.columns)
    let without = try scalesWithoutChange(pass, transposing)?.restored
    let coded = source.isPacked ? nil : try scales(pass)
    guard let scales = coded?.restored ?? pass.feed.decoder?.absmax.baseAddress.map({ Unchecked($0) }) else {
      return TensorOutcome()
    }
    let shaping = ShapingPass(
      pass: pass, columns: space.columns, scales: scales, without: without, rules: rules, encoder: encoder,
      meter: ChangeMeter(change))
    let shaper = try chooseShaper(shaping, space)
    let digest = XXH3()
    let found = Unchecked(PerChunk<(ChangeMeter.Piece, Difference)>(pass.chunks))
    try forEachChunk(pass.chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let (piece, codes, result) = try shaping.run(index, shaper, scratch)
      found.value.set(index, result)
      try writers[0].send(codes, index, turnstile, digest, scratch, slot: Slot.outputStored) {
        pass.feed.admit(piece)
        progress.value(piece.plain.count)
      }
    }
    var outcome = TensorOutcome()
    outcome.sourceDigest = try pass.feed.finish(whole)
    try writers[0].finish(digest)
    if let coded {
      for (bytes, writer) in zip(coded.sections, writers.dropFirst()) {
        try writer.write(whole: bytes, digest, whole, slot: Slot.outputStored)
      }
    } else {
      for (bytes, writer) in zip(pass.feed.decoder?.scaleBytes ?? [], writers.dropFirst()) {
        try bytes.withUnsafeBytes { try writer.write(whole: $0, digest, whole, slot: Slot.outputStored) }
      }
    }
    outcome.digest = digest.digest128
    let results = found.value.values
    let difference = results.reduce(into: Difference()) { $0 += $1.1 }
    outcome.change = ChangeMeter.Piece.total(results.map(\.0))
    outcome.squaredError = difference.squaredDifference
    outcome.squaredSignal = difference.squaredA
    return outcome
  }

  /// Tries how much of the change survives on some of the rows.
  private func chooseShaper(_ shaping: ShapingPass, _ space: RowSpace) throws -> Shaper {
    let pass = shaping.pass
    let samples = Set([0, pass.chunks / 3, 2 * pass.chunks / 3, pass.chunks - 1]).sorted()
    var shaper = Shaper(pass.codec, right: space.start, rank: space.rank, columns: space.columns)
    for strength in Self.strengths {
      shaper = shaper.paying(strength)
      let sums = PerChunk<ChangeMeter.Piece>(samples.count)
      try forEachChunk(samples.count, threads: threads, pool) { [shaper] index, scratch, _ in
        sums.set(index, try shaping.run(samples[index], shaper, scratch).2.0)
      }
      if ChangeMeter.Piece.total(sums.values).survival >= Self.enough { break }
    }
    return shaper
  }
}

/// One tensor on its way through the shaper, in whole rows.
private struct ShapingPass: Sendable {
  let pass: TensorStream.PackingPass
  let columns: Int
  /// As a reader restores them.
  let scales: Unchecked<UnsafeMutablePointer<Float>>
  /// Those without the change; nil where the tensor would stay the codes it is.
  let without: Unchecked<UnsafeMutablePointer<Float>>?
  let rules: EncodingRules
  let encoder: StreamJob.Encoder
  let meter: ChangeMeter

  /// One chunk: its codes, and what they keep.
  func run(_ index: Int, _ shaper: Shaper, _ scratch: Scratch) throws -> (
    ElementFeed.Piece, UnsafeRawBufferPointer, (ChangeMeter.Piece, Difference)
  ) {
    let start = index * pass.chunk
    let count = pass.count(index)
    let piece = try pass.feed.read(start, count, scratch)
    let codes = scratch.bytes(TensorStream.Slot.output, count)
    let values = scratch.floatStart(TensorStream.Slot.without, count)
    var result = (ChangeMeter.Piece(), Difference())
    if let wanted = piece.x?.assumingMemoryBound(to: Float.self), let base = piece.base, let delta = piece.delta,
      let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
    {
      if let without {
        let own = scratch.floatStart(TensorStream.Slot.moments, pass.codec.blocks(count))
        Rounding(codec: pass.codec, rules: rules, encoder: encoder, codes: out, absmax: own)
          .apply(base, count, without.value + start / pass.codec.blockSize)
      }
      _ = shaper.pack(wanted, element: start, rows: count / columns, scales: scales.value, codes: out, values: values)
      result.1.add(wanted, values, count: count)
      result.0 = meter.measure(start, count, base: base, written: values, delta: delta, scratch)
    }
    return (piece, UnsafeRawBufferPointer(rebasing: codes[..<pass.codec.codeBytes(count)]), result)
  }
}
