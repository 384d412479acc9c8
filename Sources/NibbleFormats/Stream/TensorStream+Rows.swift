import NibbleCore
import NibbleQuant

extension TensorStream {
  /// Elements into signed bytes with a scale a row, changed on the way or not.
  func packRows(
    _ source: StoredTensor, _ target: TensorTarget, into writers: [SectionWriter], changedBy change: (any TensorChange)? = nil
  ) throws -> TensorOutcome {
    let rows = target.shape[0]
    let pass = try rowPass(source, target, change)
    let digest = XXH3()
    let chunks = ceilDivide(source.count, pass.chunk)
    let found = Unchecked(PerChunk<RowPass.Result>(chunks))
    try forEachChunk(chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let (piece, codes, result) = try pass.run(index, scratch)
      found.value.set(index, result)
      try writers[0].send(codes, index, turnstile, digest, scratch, slot: Slot.outputStored) {
        pass.feed.admit(piece)
        progress.value(piece.plain.count)
      }
    }
    var outcome = TensorOutcome()
    outcome.sourceDigest = try pass.feed.finish(whole)
    try writers[0].finish(digest)
    try writers[1].write(
      whole: UnsafeRawBufferPointer(start: pass.scales.value, count: 4 * rows), digest, whole, slot: Slot.outputStored)
    outcome.digest = digest.digest128
    let results = found.value.values
    outcome.counts.nonfinite = results.reduce(0) { $0 + $1.nonfinite }
    let difference = results.reduce(into: Difference()) { $0 += $1.difference }
    outcome.squaredError = difference.squaredDifference
    outcome.squaredSignal = difference.squaredA
    if change != nil { outcome.change = ChangeMeter.Piece.total(results.compactMap(\.change)) }
    return outcome
  }

  /// What rows of bytes would keep of a change. Nothing is written.
  func rowSurvival(_ source: StoredTensor, _ change: any TensorChange, as target: TensorTarget) throws -> ChangeSums {
    let pass = try rowPass(source, target, change)
    let found = Unchecked(PerChunk<RowPass.Result>(ceilDivide(source.count, pass.chunk)))
    try forEachChunk(ceilDivide(source.count, pass.chunk), threads: threads, pool) { index, scratch, _ in
      found.value.set(index, try pass.run(index, scratch).2)
    }
    return ChangeMeter.Piece.total(found.value.values.compactMap(\.change))
  }

  private func rowPass(_ source: StoredTensor, _ target: TensorTarget, _ change: (any TensorChange)?) throws -> RowPass {
    let (rows, columns) = (target.shape[0], target.shape[1])
    let block = source.encoding.codec?.blockSize ?? 1
    // Whole rows that are whole blocks of the source.
    let step = max(1, block >> min(columns.trailingZeroBitCount, block.trailingZeroBitCount))
    let rowsAtOnce = max(step, Self.chunkElements / columns / step * step)
    return RowPass(
      feed: try ElementFeed(source, transposing: target.isTransposed != source.isTransposed, changedBy: change, whole),
      columns: columns, chunk: rowsAtOnce * columns, count: source.count, scales: Unchecked(whole.floatStart(Slot.absmax, rows)),
      without: source.encoding.codec == nil ? Unchecked(whole.floatStart(Slot.baseAbsmax, rows)) : nil,
      meter: change.map { ChangeMeter($0) })
  }
}

/// One tensor on its way into rows of bytes.
private struct RowPass: Sendable {
  let feed: ElementFeed
  let columns: Int
  let chunk: Int
  let count: Int
  /// One a row.
  let scales: Unchecked<UnsafeMutablePointer<Float>>
  /// Those without the change; nil where the tensor would stay the 4-bit codes it is.
  let without: Unchecked<UnsafeMutablePointer<Float>>?
  let meter: ChangeMeter?

  struct Result: Sendable {
    var difference = Difference()
    var nonfinite = 0
    var change: ChangeMeter.Piece?
  }

  /// One chunk: its codes, and what they keep.
  func run(_ index: Int, _ scratch: Scratch) throws -> (ElementFeed.Piece, UnsafeRawBufferPointer, Result) {
    let start = index * chunk
    let count = min(chunk, self.count - start)
    let piece = try feed.read(start, count, scratch)
    let bytes = scratch.bytes(TensorStream.Slot.output, count)
    let values = scratch.floatStart(TensorStream.Slot.without, count)
    var result = Result()
    guard let from = piece.x, let codes = bytes.baseAddress?.assumingMemoryBound(to: Int8.self) else {
      return (piece, UnsafeRawBufferPointer(bytes), result)
    }
    Kernels.widen(feed.dtype, from, count: count, values)
    let wanted = scratch.floatStart(TensorStream.Slot.gathered, count)
    wanted.update(from: values, count: count)
    if let without, let base = piece.base, piece.delta != nil {
      round(base, count, start / columns, without.value, codes, scratch)
    }
    result.nonfinite = round(values, count, start / columns, scales.value, codes, scratch)
    result.difference.add(wanted, values, count: count)
    if let meter, let base = piece.base, let delta = piece.delta {
      result.change = meter.measure(start, count, base: base, written: values, delta: delta, scratch)
    }
    return (piece, UnsafeRawBufferPointer(bytes), result)
  }

  /// Whole rows into codes and back.
  ///
  /// - Returns: values that come back as none that is finite: one of them takes its whole row along
  @discardableResult
  private func round(
    _ values: UnsafeMutablePointer<Float>, _ count: Int, _ first: Int, _ scales: UnsafeMutablePointer<Float>,
    _ codes: UnsafeMutablePointer<Int8>, _ scratch: Scratch
  ) -> Int {
    let half = scratch.start(TensorStream.Slot.moments, 2 * count)
    RowCodec.throughHalf(values, count, half)
    for row in 0..<count / columns {
      let at = values + row * columns
      scales[first + row] = RowCodec.absmax(at, columns)
      RowCodec.encode(at, columns, scale: scales[first + row], codes + row * columns)
    }
    RowCodec.decode(codes, from: first * columns, count: count, columns: columns, scales: scales, .f32, values)
    return Kernels.countNonfinite(.f32, values, count: count)
  }
}
