import NibbleCore
import NibbleQuant

extension TensorStream {
  /// Codes back into elements in the order of the model's own matrix, the transpose of what is stored.
  func unpackTurned(
    _ source: StoredTensor, _ target: TensorTarget, into writer: SectionWriter, changedBy change: (any TensorChange)?
  ) throws -> TensorOutcome {
    let codes = try SectionReader(source.sections[0], source.name.text)
    let digest = XXH3()
    let sourceDigest = XXH3()
    let decoder = try PackedDecoder(source)
    var outcome = TensorOutcome()
    (outcome.counts.nonfinite, outcome.change) = try unpackStrips(
      source, decoder, codes, change, target.dtype, writer, digest, sourceDigest)
    try codes.finish()
    try writer.finish(digest)
    for bytes in decoder.sections { sourceDigest.update(bytes) }
    outcome.digest = digest.digest128
    outcome.sourceDigest = sourceDigest.digest128
    return outcome
  }

  /// Bytes of output that are put together at a time when rows become columns.
  static let stripBytes = 64 << 20

  /// Decodes once for each strip of output rows that fits the memory set aside; most tensors are one strip.
  private func unpackStrips(
    _ source: StoredTensor, _ decoder: PackedDecoder, _ codes: SectionReader, _ change: (any TensorChange)?, _ dtype: DType,
    _ writer: SectionWriter, _ digest: XXH3, _ sourceDigest: XXH3
  ) throws -> (nonfinite: Int, ChangeSums?) {
    let (height, rowLength) = (source.shape[0], source.shape[1])
    let width = dtype.bitWidth / 8
    // A strip of frames' length in a compressed section: rows whose bytes are whole frames are not to be had, so
    // the strip is written whole.
    let rowsInStrip = writer.isCompressed ? max(1, rowLength) : max(1, Self.stripBytes / max(1, height * width))
    let chunk = Self.chunk(leastCommonMultiple(decoder.decoder.grain, change?.grain ?? 1))
    let meter = change.map { ChangeMeter($0) }
    let pieces = PerChunk<ChangeMeter.Piece>(ceilDivide(source.count, chunk))
    var nonfinite = 0
    for first in stride(from: 0, to: rowLength, by: rowsInStrip) {
      let rows = min(rowsInStrip, rowLength - first)
      let strip = Unchecked(whole.bytes(Slot.strip, rows * height * width))
      let isFirst = first == 0
      try forEachChunk(ceilDivide(source.count, chunk), threads: threads, pool) {
        [progress = Unchecked(progress)] index, scratch, turnstile in
        let start = index * chunk
        let count = min(chunk, source.count - start)
        let (plain, stored) = try decoder.readCodes(codes, start, count, scratch)
        let output = scratch.bytes(Slot.output, count * width)
        if let from = output.baseAddress, let to = strip.value.baseAddress {
          if let change, let meter {
            let base = scratch.floatStart(Slot.left, count)
            decoder.decode(plain, start, count, .f32, UnsafeMutableRawPointer(base))
            let found = change.round(base, start, count, to: dtype, from, meter, scratch)
            if isFirst { pieces.set(index, found) }
          } else {
            decoder.decode(plain, start, count, dtype, from)
          }
          Self.scatter(from, start, count, rowLength, width, to, first, rows, height)
        }
        if isFirst {
          try turnstile.pass(index) {
            codes.admit(stored)
            sourceDigest.update(plain)
            progress.value(plain.count)
          }
        }
      }
      if let base = strip.value.baseAddress {
        nonfinite += Kernels.countNonfinite(dtype, base, count: rows * height)
      }
      let bytes = UnsafeRawBufferPointer(strip.value)
      for at in stride(from: 0, to: bytes.count, by: 4 * frameLength) {
        let part = UnsafeRawBufferPointer(rebasing: bytes[at..<min(at + 4 * frameLength, bytes.count)])
        try writer.send(next: part, digest, whole, slot: Slot.outputStored)
      }
    }
    return (nonfinite, change == nil ? nil : ChangeMeter.Piece.total(pieces.values))
  }

  /// Puts elements `start..<start + count` of rows of `rowLength` into columns of a strip that holds `rows` output rows
  /// from `first`, each `height` long.
  private static func scatter(
    _ x: UnsafeRawPointer, _ start: Int, _ count: Int, _ rowLength: Int, _ width: Int, _ strip: UnsafeMutableRawPointer,
    _ first: Int, _ rows: Int, _ height: Int
  ) {
    func put<T>(_: T.Type) {
      let from = x.assumingMemoryBound(to: T.self)
      let to = strip.assumingMemoryBound(to: T.self)
      var done = 0
      while done < count {
        let (row, column) = (start + done).quotientAndRemainder(dividingBy: rowLength)
        let end = min(rowLength, column + count - done)
        for at in max(column, first)..<max(max(column, first), min(end, first + rows)) {
          to[(at - first) * height + row] = from[done + at - column]
        }
        done += end - column
      }
    }
    if width == 4 { put(UInt32.self) } else { put(UInt16.self) }
  }
}
