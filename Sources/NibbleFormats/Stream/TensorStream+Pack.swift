import NibbleCore
import NibbleQuant

extension TensorStream {
  /// Float elements into 4-bit codes.
  ///
  /// Codes go out chunk by chunk; scales are kept until the last block is known, because double quantization is
  /// relative to the mean of all.
  func pack(
    _ source: StoredTensor, _ codec: BlockCodec, _ target: TensorTarget, into writers: [SectionWriter],
    changedBy change: (any TensorChange)? = nil
  ) throws -> TensorOutcome {
    let transposing = target.isTransposed != source.isTransposed
    let feed = try ElementFeed(source, transposing: transposing, changedBy: change, whole)
    let pass = PackingPass(
      source: source, codec: codec, feed: feed,
      absmax: Unchecked(whole.floats(Slot.absmax, codec.blocks(source.count))),
      moments: Unchecked(whole.floats(Slot.sums, 2 * codec.blocks(source.count))),
      // Codes that are compressed go out in whole frames.
      chunk: writers[0].isCompressed ? 2 * Self.chunkElements : Self.chunkElements)
    let withoutChange = change == nil ? nil : try scalesWithoutChange(pass, transposing)
    let digest = XXH3()
    var outcome = TensorOutcome()
    var sums: ErrorSums
    let scales: CodedScales
    switch encoder {
    case .absmax:
      (sums, outcome.sourceDigest) = try encode(pass, into: writers[0], digest, given: nil)
      scales = try code(pass, sums.counts)
      if codec.nested != nil { sums += scales.extraError }
    case .mse, .mseSigned:
      // The scales are chosen first and coded, then the codes fitted to what the scales became.
      let found = try searchScales(pass)
      outcome.sourceDigest = found.digest
      scales = try code(pass, found.counts)
      (sums, _) = try encode(pass, into: writers[0], digest, given: scales.restored)
    }
    for (bytes, writer) in zip(scales.sections, writers.dropFirst()) {
      try writer.write(whole: bytes, digest, whole, slot: Slot.outputStored)
    }
    outcome.digest = digest.digest128
    outcome.counts = sums.counts
    outcome.squaredError = notBelowZero(sums.error)
    outcome.squaredSignal = sums.signal
    if change != nil, let restored = scales.restored { outcome.change = try measure(pass, restored, withoutChange?.restored) }
    return outcome
  }

  /// One tensor on its way through the encoder.
  struct PackingPass: Sendable {
    let source: StoredTensor
    let codec: BlockCodec
    let feed: ElementFeed
    /// The scale of each block.
    let absmax: Unchecked<UnsafeMutableBufferPointer<Float>>
    /// For each block Σe·q and Σq², which tell what a change of its scale costs.
    let moments: Unchecked<UnsafeMutableBufferPointer<Float>>
    /// Elements of a chunk, a multiple of every block size.
    let chunk: Int
    var chunks: Int { ceilDivide(source.count, chunk) }

    func count(_ index: Int) -> Int { min(chunk, source.count - index * chunk) }
    /// The first block of a chunk.
    func block(_ index: Int) -> Int { index * (chunk / codec.blockSize) }
  }

  struct ErrorSums: Sendable {
    var error = 0.0
    var signal = 0.0
    var counts = EncodeCounts()

    static func += (a: inout ErrorSums, b: ErrorSums) {
      a.error += b.error
      a.signal += b.signal
      a.counts += b.counts
    }
  }

  /// Encodes every chunk, under `given` scales or under each block's own absmax.
  private func encode(
    _ pass: PackingPass, into writer: SectionWriter, _ digest: XXH3, given: Unchecked<UnsafeMutablePointer<Float>>?
  ) throws -> (ErrorSums, Digest128) {
    let sums = PerChunk<ErrorSums>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) {
      [rules, progress = Unchecked(progress)] index, scratch, turnstile in
      let count = pass.count(index)
      let piece = try pass.feed.read(index * pass.chunk, count, scratch)
      let codes = scratch.bytes(Slot.output, pass.codec.codeBytes(count))
      let moments = scratch.floats(Slot.moments, 3 * pass.codec.blocks(count))
      if let from = piece.x, let absmax = pass.absmax.value.baseAddress, let moments = moments.baseAddress,
        let kept = pass.moments.value.baseAddress, let out = codes.baseAddress?.assumingMemoryBound(to: UInt8.self)
      {
        let block = pass.block(index)
        let scales = given.map { $0.value + block } ?? absmax + block
        let counts =
          given == nil
          ? Kernels.encode(
            pass.codec, rules, pass.feed.dtype, from, count: count, codes: out, absmax: scales, moments: moments)
          : Kernels.encode(
            pass.codec, scales: scales, pass.feed.dtype, from, count: count, codes: out, moments: moments)
        var sum = Self.sum(moments, scales, pass.codec.blocks(count), keeping: kept + 2 * block)
        sum.counts = counts
        sums.set(index, sum)
      }
      try writer.send(UnsafeRawBufferPointer(codes), index, turnstile, digest, scratch, slot: Slot.outputStored) {
        // Given scales come from a first pass, which has hashed the source.
        if given == nil { pass.feed.admit(piece) }
        progress.value(piece.plain.count)
      }
    }
    try writer.finish(digest)
    let total = sums.values.reduce(into: ErrorSums()) { $0 += $1 }
    return (total, given == nil ? try pass.feed.finish(whole) : Digest128(high: 0, low: 0))
  }

  /// Σ(x − a·q)² and Σx² from the moments of blocks with scales a; Σe·q and Σq² go to `kept`.
  private static func sum(
    _ moments: UnsafePointer<Float>, _ scales: UnsafePointer<Float>, _ blocks: Int,
    keeping kept: UnsafeMutablePointer<Float>
  ) -> ErrorSums {
    var sums = ErrorSums()
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
      sums.error += square * Double(ee)
      sums.signal += square * (Double(ee) + 2 * Double(eq) + Double(qq))
    }
    return sums
  }

  /// The first pass of the MSE encoders: the best scale of each block.
  func searchScales(_ pass: PackingPass) throws -> (counts: EncodeCounts, digest: Digest128) {
    let counts = PerChunk<EncodeCounts>(pass.chunks)
    try forEachChunk(pass.chunks, threads: threads, pool) { [encoder] index, scratch, turnstile in
      let count = pass.count(index)
      let piece = try pass.feed.read(index * pass.chunk, count, scratch)
      if let from = piece.x, let scales = pass.absmax.value.baseAddress {
        counts.set(
          index,
          Kernels.searchScales(
            pass.codec, bothSigns: encoder == .mseSigned, pass.feed.dtype, from, count: count,
            scales: scales + pass.block(index)))
      }
      try turnstile.pass(index) { pass.feed.admit(piece) }
    }
    return (counts.values.reduce(into: EncodeCounts()) { $0 += $1 }, try pass.feed.finish(whole))
  }

  /// Scales as the sections behind the codes hold them.
  struct CodedScales {
    var sections: [UnsafeRawBufferPointer]
    /// What a reader makes of them.
    var restored: Unchecked<UnsafeMutablePointer<Float>>?
    /// What coding the scales adds to the squared error.
    var extraError = ErrorSums()
  }

  func code(_ pass: PackingPass, _ counts: EncodeCounts) throws -> CodedScales {
    let absmax = pass.absmax.value
    guard let nested = pass.codec.nested else {
      return CodedScales(
        sections: [UnsafeRawBufferPointer(absmax)], restored: absmax.baseAddress.map { Unchecked($0) })
    }
    let offset = whole.floats(Slot.nested, 1 + pass.codec.nestedBlocks(pass.source.count))
    offset[0] = ScaleCoder.offset(of: UnsafeBufferPointer(absmax))
    guard offset[0].isFinite else {
      throw NibbleError.quality(
        "\(pass.source.sections[0].place): tensor \(quoted(pass.source.name.text)) has \(counts.nonfinite) NaN or infinite values, which double quantization "
          + "would spread over the whole tensor; keep it (--keep) or use --no-double-quant with --allow-nonfinite")
    }
    let codes = whole.bytes(Slot.scaleCodes, absmax.count)
    let chunk = 256 * nested.blockSize
    let sums = PerChunk<ErrorSums>(ceilDivide(absmax.count, chunk))
    let shared = Unchecked((offset, codes, pass.moments.value))
    try forEachChunk(ceilDivide(absmax.count, chunk), threads: threads, pool) { [rules] index, scratch, _ in
      let (offset, codes, moments) = shared.value
      let start = index * chunk
      let count = min(chunk, pass.absmax.value.count - start)
      guard let nestedScales = offset.baseAddress, let restored = scratch.floats(Slot.left, count).baseAddress,
        let codes = codes.baseAddress?.assumingMemoryBound(to: UInt8.self), let moments = moments.baseAddress,
        let absmax = pass.absmax.value.baseAddress
      else { return }
      let scales = UnsafeBufferPointer(rebasing: pass.absmax.value[start..<start + count])
      let nestedAt = nestedScales + 1 + start / nested.blockSize
      ScaleCoder.encode(
        scales, offset: offset[0], blockSize: nested.blockSize, rules, codes: codes + start, nestedAbsmax: nestedAt)
      ScaleCoder.decode(
        UnsafeBufferPointer(start: codes + start, count: count), map: nested.codebook, nestedAbsmax: nestedAt,
        blockSize: nested.blockSize, offset: offset[0], absmax: restored)
      sums.set(index, Self.extraError(scales, restored, moments + 2 * start))
      // From here on the scales are what a reader will make of them.
      (absmax + start).update(from: restored, count: count)
    }
    var result = CodedScales(
      sections: [
        UnsafeRawBufferPointer(codes), UnsafeRawBufferPointer(UnsafeMutableBufferPointer(rebasing: offset[1...])),
        UnsafeRawBufferPointer(UnsafeMutableBufferPointer(rebasing: offset[..<1])),
      ], restored: absmax.baseAddress.map { Unchecked($0) })
    for sum in sums.values { result.extraError += sum }
    return result
  }

  /// With scale a replaced by a′ and δ = a − a′, Σ(x − a′q)² = a²Σe² + 2aδΣe·q + δ²Σq²: the last two terms.
  private static func extraError(
    _ scales: UnsafeBufferPointer<Float>, _ restored: UnsafePointer<Float>, _ moments: UnsafePointer<Float>
  ) -> ErrorSums {
    var sums = ErrorSums()
    for block in 0..<scales.count {
      let a = scales[block]
      let delta = Double(a) - Double(restored[block])
      let qq = Double(moments[2 * block + 1])
      let eq = Double(moments[2 * block])
      guard a.isFinite, eq.isFinite, qq.isFinite else { continue }
      sums.error += delta * delta * qq
      if a != 0 { sums.error += 2 * Double(a) * delta * eq }
    }
    return sums
  }
}
