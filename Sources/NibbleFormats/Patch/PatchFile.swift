import NibbleCore

/// A patch that is open: what leads from one block file to another and back. Specified in `formats/patch/README.md`.
public final class PatchFile: Sendable {
  package let path: String
  let file: InputFile
  let first: NblHead
  let second: NblHead
  let parts: [PatchPart]
  /// Those that differ, in order.
  let spans: [PatchSpan]
  /// Where each span's frames begin.
  private let places: [Int]
  /// The first span of each part, and of one after the last.
  private let starts: [Int]
  private let pool = ScratchPool()

  /// Opens the patch at `path`: reads and checks its header, both tables and its index; reads no difference.
  ///
  /// - Throws: `.badInput`, `.integrity`
  public init(_ path: String) throws {
    file = try InputFile(path)
    self.path = path
    let header = try PatchHeader(of: file)
    let heads = try file.bytes(at: PatchHeader.length, count: header.heads.0 + header.heads.1)
    let index = try file.bytes(at: header.index, count: file.size - header.index)
    let hash = XXH3()
    hash.update(heads)
    hash.update(index)
    guard hash.digest64 == header.checksum else {
      throw NibbleError.integrity("\(path: path): the checksum of its heads and index does not hold")
    }
    first = try NblHead(Array(heads[..<header.heads.0]), place: "\(path: path): first head")
    second = try NblHead(Array(heads[header.heads.0...]), place: "\(path: path): second head")
    parts = PatchPart.all(first, second)
    var reader = ByteReader(index, place: "\(path: path): index")
    var spans: [PatchSpan] = []
    var places: [Int] = []
    var at = PatchHeader.length + heads.count
    for _ in 0..<header.spans {
      let span = try PatchSpan(&reader)
      if let last = spans.last, (last.part, last.number) >= (span.part, span.number) { throw reader.fail("a span out of order") }
      guard span.part < parts.count else { throw reader.fail("a span of part \(span.part), of which there are \(parts.count)") }
      let length = Self.length(of: span, in: parts[span.part])
      guard length > 0 else { throw reader.fail("a span behind the end of \(parts[span.part].description)") }
      guard
        span.listed == 0
          ? span.gaps == 0 && span.storedGaps == 0
          : span.listed <= length && span.gaps <= PatchSpan.maximumGaps(span.listed, length)
      else { throw reader.fail("a span of \(length) bytes with \(span.listed) listed bytes and \(span.gaps) gaps") }
      guard span.stored <= header.index - at else { throw reader.fail("a span that reaches into the index") }
      spans.append(span)
      places.append(at)
      at += span.stored
    }
    guard at == header.index else {
      throw NibbleError.badInput("\(path: path): the spans end at byte \(at), the index begins at \(header.index)")
    }
    (self.spans, self.places) = (spans, places)
    var starts = [Int](repeating: 0, count: parts.count + 1)
    for span in spans { starts[span.part + 1] += 1 }
    for part in parts.indices { starts[part + 1] += starts[part] }
    self.starts = starts
  }

  /// Whether the file at `path` begins as a patch does.
  public static func isPatch(_ path: String) -> Bool {
    guard PathKind(path) == .file, let file = try? InputFile(path) else { return false }
    return (try? file.bytes(at: 0, count: min(8, file.size))) == PatchHeader.magic
  }

  func head(_ side: PatchSide) -> NblHead { side == .first ? first : second }

  /// Whether any byte of `part` differs.
  func touches(_ part: Int) -> Bool { starts[part] < starts[part + 1] }

  /// Bytes that the span covers; 0 or less if it lies behind the end.
  private static func length(of span: PatchSpan, in part: PatchPart) -> Int {
    let (start, overflow) = span.number.multipliedReportingOverflow(by: PatchHeader.spanLength)
    return overflow ? 0 : min(PatchHeader.spanLength, part.length - start)
  }

  /// Turns bytes of one side into those of the other.
  ///
  /// - Parameter bytes: those of `part` from `offset`
  /// - Throws: `.integrity` for a patch whose bytes are damaged
  func apply(_ part: Int, at offset: Int, to bytes: UnsafeMutableRawBufferPointer) throws {
    guard touches(part), bytes.count > 0 else { return }
    let scratch = pool.take()
    defer { pool.give(scratch) }
    // Spans of a part are few enough between two chunks to look for them one by one.
    var index = starts[part]
    var step = starts[part + 1] - index
    let wanted = offset / PatchHeader.spanLength
    while step > 0 {
      let half = step / 2
      if spans[index + half].number < wanted { (index, step) = (index + half + 1, step - half - 1) } else { step = half }
    }
    while index < starts[part + 1], spans[index].number * PatchHeader.spanLength < offset + bytes.count {
      try apply(index, to: bytes, from: offset, scratch)
      index += 1
    }
  }

  /// Reads every byte: each span's checksum, and whether its lists are of a span. What a patch makes of a file only that file tells.
  ///
  /// - Parameter progress: gets bytes done and bytes in all
  /// - Throws: `.integrity` naming the span
  public func verify(threads: Int = availableCores, progress: @escaping (Int, Int) -> Void = { _, _ in }) throws {
    let total = spans.reduce(0) { $0 + $1.stored }
    var done = 0
    let counted = Unchecked({ (count: Int) in
      done += count
      progress(done, total)
    })
    try forEachChunk(spans.count, threads: threads, pool) { [self] index, scratch, turnstile in
      let span = spans[index]
      let bytes = scratch.bytes(3, Self.length(of: span, in: parts[span.part]))
      try apply(index, to: bytes, from: span.number * PatchHeader.spanLength, scratch)
      try turnstile.pass(index) { counted.value(span.stored) }
    }
    try file.checkUnchanged()
  }

  private func apply(_ index: Int, to bytes: UnsafeMutableRawBufferPointer, from offset: Int, _ scratch: Scratch) throws {
    let span = spans[index]
    let part = parts[span.part]
    let start = span.number * PatchHeader.spanLength
    let length = Self.length(of: span, in: part)
    func fail(_ reason: MessageText) -> NibbleError {
      .integrity("\(path: path): \(part.description), span \(span.number) at byte \(places[index]): \(reason)")
    }
    let stored = scratch.bytes(0, span.stored)
    try file.read(into: stored, at: places[index])
    let found = XXH3.digest64(of: UnsafeRawBufferPointer(stored))
    guard found == span.checksum else {
      throw fail("its bytes have checksum \(hexText(found)), the index says \(hexText(span.checksum))")
    }
    func unpack(_ frame: Range<Int>, _ slot: Int, _ count: Int) throws -> UnsafeRawBufferPointer {
      let plain = scratch.bytes(slot, count)
      if let reason = Zstd.decompress(.init(rebasing: stored[frame]), into: plain) {
        throw fail("a zstd frame does not decompress: \(reason)")
      }
      return UnsafeRawBufferPointer(plain)
    }
    let low = max(start, offset), high = min(start + length, offset + bytes.count)
    let target = UnsafeMutableRawBufferPointer(rebasing: bytes[low - offset..<high - offset])
    if span.listed == 0 {
      let all = try unpack(0..<span.stored, 1, length)
      return PatchCoding.combine(target, with: .init(rebasing: all[low - start..<high - start]))
    }
    let gaps = try unpack(0..<span.storedGaps, 1, span.gaps)
    let values = try unpack(span.storedGaps..<span.stored, 2, span.listed)
    guard PatchCoding.apply(gaps: gaps, values: values, length: length, to: target, at: low - start) else {
      throw fail("its lists do not fit the span")
    }
  }
}
