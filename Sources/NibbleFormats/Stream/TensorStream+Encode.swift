import NibbleCore
import NibbleQuant

extension TensorStream {
  /// How much of a change is enough for shaped codes to keep.
  private static let enough = 0.95

  /// Decodes, changes, encodes: elements of any kind into those of any other, with what is added on the way.
  func encode(
    _ source: StoredTensor, changedBy change: (any TensorChange)?, isShaped: Bool, decided: DecidedCodes? = nil,
    as target: TensorTarget, into writers: [SectionWriter]
  ) throws -> TensorOutcome {
    let memory = pool.take()
    defer { pool.give(memory) }
    // Codes that are compressed leave in whole frames.
    let isWide = writers[0].isCompressed || target.encoding.isPlain
    let pass = try pass(source, changedBy: change, isShaped: isShaped, decided: decided, as: target, isWide: isWide, memory)
    let base = try BaseRounding(pass, target, self)
    defer { base?.give(to: pool) }
    var outcome = TensorOutcome()
    if pass.encoder.needsScan { outcome.sourceDigest = try scan(pass, admitting: true) }
    if let shaping = pass.encoder as? any ShapingEncoder { try choose(shaping, pass, base) }
    let digest = XXH3()
    let found = PerChunk<EncodedSums>(pass.chunks)
    let meter = pass.encoder.settlesAtOnce ? change.map { ChangeMeter($0) } : nil
    let pieces = PerChunk<ChangeMeter.Piece>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { [progress = Unchecked(progress)] index, scratch, turnstile in
      let (piece, codes, sums, kept) = try pass.encode(index, meter, base, scratch)
      found.set(index, sums)
      if let kept { pieces.set(index, kept) }
      try writers[0].send(codes, index, turnstile, digest, scratch, slot: Slot.outputStored) {
        // The scan, where there is one, has hashed the source.
        if !pass.encoder.needsScan { pass.feed.admit(piece) }
        progress.value(piece.plain.count)
      }
    }
    if !pass.encoder.needsScan { outcome.sourceDigest = try pass.feed.finish(whole) }
    try writers[0].finish(digest)
    var sums = found.values.reduce(into: EncodedSums()) { $0 += $1 }
    for (bytes, writer) in zip(try pass.encoder.finish(&sums), writers.dropFirst()) {
      try writer.write(whole: bytes, digest, whole, slot: Slot.outputStored)
    }
    outcome.digest = digest.digest128
    outcome.counts = sums.counts
    outcome.isMoved = pass.encoder is any CodeKeepingEncoder
    (outcome.squaredError, outcome.squaredSignal) = (sums.error, sums.signal)
    if change != nil {
      outcome.change = meter == nil ? try measure(pass, base) : ChangeMeter.Piece.total(pieces.values)
    }
    return outcome
  }

  /// What plain rounding would make of a change. Nothing is written.
  func survival(_ source: StoredTensor, _ change: any TensorChange, as target: TensorTarget) throws -> ChangeSums {
    let memory = pool.take()
    defer { pool.give(memory) }
    let pass = try pass(source, changedBy: change, isShaped: false, as: target, isWide: false, memory)
    let base = try BaseRounding(pass, target, self)
    defer { base?.give(to: pool) }
    if !pass.encoder.settlesAtOnce { _ = try scan(pass, admitting: false) }
    return try measure(pass, base)
  }

  private func pass(
    _ source: StoredTensor, changedBy change: (any TensorChange)?, isShaped: Bool, decided: DecidedCodes? = nil,
    as target: TensorTarget, isWide: Bool, _ memory: Scratch
  ) throws -> EncodingPass {
    let feed = try ElementFeed(
      source, transposing: target.isTransposed != source.isTransposed, changedBy: change,
      as: target.encoding.isPlain ? target.dtype : .f32)
    var task = EncodingTask(
      target.dtype, target.shape, place: source.place, rules: rules, search: search, offsets: offsets, threads: threads, pool: pool,
      measures: change == nil, memory: memory)
    task.source = feed.decoder
    task.importance = target.importance
    task.keepsSource = change == nil && source.shape == target.shape && source.isTransposed == target.isTransposed
    var encoder: any TensorEncoder = decided?.encoder(task) ?? target.encoding.codec.encoder(task)
    if let change, change.sharedColumns > 1, source.encoding == target.encoding, source.isTransposed == target.isTransposed,
      let moved = moved(target, change, feed, task)
    {
      encoder = moved
    } else if isShaped, let space = change?.rowSpace {
      guard space.rank <= Shaper.mostRanks else {
        throw NibbleError.usage(
          "\(tensor: source.name.text): a change of rank \(space.rank) is not shaped; \(Shaper.mostRanks) is the limit")
      }
      encoder = target.encoding.codec.shapingEncoder(task, space, keeping: feed.decoder) ?? encoder
    }
    let grain = leastCommonMultiple(leastCommonMultiple(encoder.grain, feed.grain), change?.grain ?? 1)
    return EncodingPass(source: source, feed: feed, encoder: encoder, chunk: Self.chunk(grain, isWide: isWide))
  }

  /// An encoder that moves groups of codes as they are; nil where the codec cannot.
  private func moved(
    _ target: TensorTarget, _ change: any TensorChange, _ feed: ElementFeed, _ task: EncodingTask
  ) -> (any TensorEncoder)? {
    let codec = target.encoding.codec, length = codec.movedLength(columns: target.shape.last ?? 0)
    guard codec.movingRefusal(target.shape, length: change.sharedColumns, rows: change.sharedRows) == nil, let sections = feed.sections,
      let shift = change.shift(length: length), let result = codec.moved(sections, by: shift)
    else { return nil }
    return MovedEncoder(result, shift, task)
  }

  /// Elements of a chunk: a multiple of what is coded together.
  static func chunk(_ grain: Int, isWide: Bool = true) -> Int {
    let most = isWide ? 2 * chunkElements : chunkElements
    return max(1, most / grain) * grain
  }

  /// Finds the scales of all elements.
  ///
  /// - Parameter admitting: whether this is the pass that hashes the source
  @discardableResult
  fileprivate func scan(_ pass: EncodingPass, admitting: Bool) throws -> Digest128 {
    let counts = PerChunk<EncodeCounts>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { index, scratch, turnstile in
      let piece = try pass.read(index, scratch)
      if let elements = pass.elements(piece, index) { counts.set(index, pass.encoder.scan(elements, scratch)) }
      if admitting { try turnstile.pass(index) { pass.feed.admit(piece) } }
    }
    let digest = admitting ? try pass.feed.finish(whole) : Digest128(high: 0, low: 0)
    try pass.encoder.endScan(counts.values.reduce(into: EncodeCounts()) { $0 += $1 })
    return digest
  }

  /// What became of a tensor's change: everything is read and rounded once more, now that the scales are known.
  private func measure(_ pass: EncodingPass, _ base: BaseRounding?) throws -> ChangeSums {
    guard let change = pass.feed.change else { return ChangeSums() }
    let meter = ChangeMeter(change)
    let pieces = PerChunk<ChangeMeter.Piece>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { index, scratch, _ in
      let piece = try pass.read(index, scratch)
      guard let x = piece.x?.assumingMemoryBound(to: Float.self), let own = piece.base, let delta = piece.delta else { return }
      let (start, count) = (index * pass.chunk, pass.count(index))
      pass.encoder.restore(x, start, count, scratch)
      base?.encoder.restore(own, start, count, scratch)
      pieces.set(index, meter.measure(start, count, base: own, written: x, delta: delta, scratch))
    }
    return ChangeMeter.Piece.total(pieces.values)
  }

  /// Tries how much of the change survives on some of the rows.
  private func choose(_ shaping: any ShapingEncoder, _ pass: EncodingPass, _ base: BaseRounding?) throws {
    guard let change = pass.feed.change else { return }
    let meter = ChangeMeter(change)
    let samples = Set([0, pass.chunks / 3, 2 * pass.chunks / 3, pass.chunks - 1]).sorted()
    for strength in shaping.strengths {
      shaping.shape(strength)
      let pieces = PerChunk<ChangeMeter.Piece>(samples.count)
      try forEachChunk(samples.count, threads: threads, pool) { index, scratch, _ in
        if let kept = try pass.encode(samples[index], meter, base, scratch).kept { pieces.set(index, kept) }
      }
      if ChangeMeter.Piece.total(pieces.values).survival >= Self.enough { break }
    }
  }
}

/// One tensor on its way through an encoder.
struct EncodingPass: Sendable {
  let source: StoredTensor
  let feed: ElementFeed
  let encoder: any TensorEncoder
  /// Elements of a chunk.
  let chunk: Int
  var chunks: Int { ceilDivide(source.count, chunk) }

  func count(_ index: Int) -> Int { min(chunk, source.count - index * chunk) }

  func read(_ index: Int, _ scratch: Scratch) throws -> ElementFeed.Piece {
    try feed.read(index * chunk, count(index), scratch)
  }

  func elements(_ piece: ElementFeed.Piece, _ index: Int) -> Elements? {
    piece.x.map { Elements($0, feed.dtype, start: index * chunk, count: count(index)) }
  }

  /// One chunk: its codes, and what they keep where a meter looks.
  func encode(
    _ index: Int, _ meter: ChangeMeter?, _ base: BaseRounding?, _ scratch: Scratch
  ) throws -> (piece: ElementFeed.Piece, codes: UnsafeRawBufferPointer, sums: EncodedSums, kept: ChangeMeter.Piece?) {
    let piece = try read(index, scratch)
    guard let elements = elements(piece, index) else {
      return (piece, UnsafeRawBufferPointer(start: nil, count: 0), EncodedSums(), nil)
    }
    guard let meter, let own = piece.base, let delta = piece.delta else {
      let (codes, sums) = encoder.encode(elements, restored: nil, scratch)
      return (piece, codes, sums, nil)
    }
    base?.encoder.restore(own, elements.start, elements.count, scratch)
    let restored = scratch.floatStart(TensorStream.Slot.restored, elements.count)
    let (found, sums) = encoder.encode(elements, restored: restored, scratch)
    let codes = encoder is any CodeKeepingEncoder ? piece.plain : found
    let kept = meter.measure(elements.start, elements.count, base: own, written: restored, delta: delta, scratch)
    return (piece, codes, sums, kept)
  }
}

/// What would be written without the change: the base rounded as the changed values are.
struct BaseRounding: Sendable {
  let encoder: any TensorEncoder
  private let memory: Scratch

  /// - Returns: nil where the base stays what it is, codes or numbers
  init?(_ pass: EncodingPass, _ target: TensorTarget, _ stream: TensorStream) throws {
    let source = pass.source
    let stays = source.isPacked == target.encoding.isPacked && (source.isPacked || source.dtype == target.dtype)
    guard pass.feed.change != nil, !stays else { return nil }
    memory = stream.pool.take()
    var task = EncodingTask(
      target.dtype, target.shape, place: source.place, rules: stream.rules, search: stream.search, offsets: stream.offsets,
      threads: stream.threads, pool: stream.pool, measures: false, memory: memory)
    task.importance = target.importance
    encoder = target.encoding.codec.encoder(task)
    if encoder.settlesAtOnce { return }
    let feed = try ElementFeed(
      source, transposing: target.isTransposed != source.isTransposed, changedBy: nil, as: .f32)
    try stream.scan(EncodingPass(source: source, feed: feed, encoder: encoder, chunk: pass.chunk), admitting: false)
  }

  /// Hands the memory back.
  func give(to pool: ScratchPool) { pool.give(memory) }
}
