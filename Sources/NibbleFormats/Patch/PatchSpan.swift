import NibbleCore

/// Up to 262144 bytes of a part that are not all zero, as the index has them.
struct PatchSpan: Sendable {
  /// Numbers of the part, and of the span in it.
  var part: Int
  var number: Int
  /// Bytes that are listed with the gaps before them; 0 if all bytes stand there as they are.
  var listed: Int
  /// Bytes of gaps, plain.
  var gaps: Int
  /// Bytes of the two zstd frames, gaps and values.
  var storedGaps: Int
  var storedValues: Int
  /// XXH3-64 of both frames.
  var checksum: UInt64

  var stored: Int { storedGaps + storedValues }

  func append(to out: inout ByteWriter) {
    for field in [part, number, listed, gaps, storedGaps, storedValues] { out.u32(field) }
    out.u64(checksum)
  }

  init(
    part: Int, number: Int, listed: Int = 0, gaps: Int = 0, storedGaps: Int = 0, storedValues: Int = 0, checksum: UInt64 = 0
  ) {
    (self.part, self.number, self.listed, self.gaps) = (part, number, listed, gaps)
    (self.storedGaps, self.storedValues, self.checksum) = (storedGaps, storedValues, checksum)
  }

  init(_ reader: inout ByteReader) throws {
    (part, number, listed) = (try reader.u32(), try reader.u32(), try reader.u32())
    (gaps, storedGaps, storedValues) = (try reader.u32(), try reader.u32(), try reader.u32())
    checksum = try reader.u64()
  }

  /// Gaps that `listed` bytes among `length` take at most.
  static func maximumGaps(_ listed: Int, _ length: Int) -> Int { listed + length / skip }

  /// A gap of this many bytes after which none is listed.
  static let skip = 255
}

/// Differences as lists of the bytes that are not zero.
enum PatchCoding {
  private static let level = 3

  /// Codes the spans of `chunk`, whose differences are `delta`, but for those that are all zero.
  ///
  /// - Returns: the spans, and the bytes of all of them one after another
  static func encode(
    _ delta: UnsafeRawBufferPointer, _ chunk: PatchChunk, _ scratch: Scratch
  ) throws -> (spans: [PatchSpan], bytes: UnsafeRawBufferPointer) {
    let size = PatchHeader.spanLength
    let count = ceilDivide(delta.count, size)
    let out = scratch.bytes(4, count * bound(size))
    var spans: [PatchSpan] = []
    var at = 0
    for index in 0..<count {
      let bytes = UnsafeRawBufferPointer(rebasing: delta[index * size..<min((index + 1) * size, delta.count)])
      let room = UnsafeMutableRawBufferPointer(rebasing: out[at...])
      guard let span = try encode(bytes, chunk.part, chunk.offset / size + index, into: room, scratch) else { continue }
      spans.append(span)
      at += span.stored
    }
    return (spans, UnsafeRawBufferPointer(rebasing: out[..<at]))
  }

  /// Codes `delta` into `out`, which holds `bound(delta.count)` bytes.
  ///
  /// - Returns: nil if all of `delta` is zero
  private static func encode(
    _ delta: UnsafeRawBufferPointer, _ part: Int, _ number: Int, into out: UnsafeMutableRawBufferPointer, _ scratch: Scratch
  ) throws -> PatchSpan? {
    let gaps = scratch.bytes(2, PatchSpan.maximumGaps(delta.count, delta.count))
    let values = scratch.bytes(3, delta.count)
    let (gapCount, listed) = split(delta, gaps, values)
    guard listed > 0 else { return nil }
    var span = PatchSpan(part: part, number: number)
    if listed <= delta.count / 2 {
      (span.listed, span.gaps) = (listed, gapCount)
      span.storedGaps = try Zstd.compress(UnsafeRawBufferPointer(rebasing: gaps[..<gapCount]), level: level, into: out)
    }
    let plain = span.listed > 0 ? UnsafeRawBufferPointer(rebasing: values[..<listed]) : delta
    span.storedValues = try Zstd.compress(
      plain, level: level, into: UnsafeMutableRawBufferPointer(rebasing: out[span.storedGaps...]))
    span.checksum = XXH3.digest64(of: UnsafeRawBufferPointer(rebasing: out[..<span.stored]))
    return span
  }

  private static func bound(_ count: Int) -> Int { Zstd.bound(PatchSpan.maximumGaps(count, count)) + Zstd.bound(count) }

  /// Lists what is not zero: of each such byte the zeros since the last one, and the byte.
  private static func split(
    _ delta: UnsafeRawBufferPointer, _ gaps: UnsafeMutableRawBufferPointer, _ values: UnsafeMutableRawBufferPointer
  ) -> (gaps: Int, values: Int) {
    var at = 0, next = 0, gapCount = 0, count = 0
    while at < delta.count {
      let end = min(at + 8, delta.count)
      if end - at == 8, delta.loadUnaligned(fromByteOffset: at, as: UInt64.self) == 0 {
        at = end
        continue
      }
      while at < end {
        let value = delta[at]
        if value != 0 {
          var gap = at - next
          while gap >= PatchSpan.skip {
            gaps[gapCount] = UInt8(PatchSpan.skip)
            gapCount += 1
            gap -= PatchSpan.skip
          }
          gaps[gapCount] = UInt8(gap)
          values[count] = value
          (gapCount, count, next) = (gapCount + 1, count + 1, at + 1)
        }
        at += 1
      }
    }
    return (gapCount, count)
  }

  /// Combines `bytes`, which begin at `offset` of a span of `length` bytes, with the listed values.
  ///
  /// - Returns: whether the lists are what they say they are
  static func apply(
    gaps: UnsafeRawBufferPointer, values: UnsafeRawBufferPointer, length: Int, to bytes: UnsafeMutableRawBufferPointer,
    at offset: Int
  ) -> Bool {
    var at = 0, count = 0
    for gap in gaps {
      at += Int(gap)
      if gap == PatchSpan.skip { continue }
      guard count < values.count, at < length else { return false }
      let place = at - offset
      if place >= 0, place < bytes.count { bytes[place] ^= values[count] }
      (at, count) = (at + 1, count + 1)
    }
    return count == values.count
  }

  /// Combines `bytes` with `other`, of the same length.
  static func combine(_ bytes: UnsafeMutableRawBufferPointer, with other: UnsafeRawBufferPointer) {
    let words = bytes.count / 8
    for word in 0..<words {
      let value = bytes.loadUnaligned(fromByteOffset: 8 * word, as: UInt64.self)
      bytes.storeBytes(
        of: value ^ other.loadUnaligned(fromByteOffset: 8 * word, as: UInt64.self), toByteOffset: 8 * word, as: UInt64.self)
    }
    for at in 8 * words..<bytes.count { bytes[at] ^= other[at] }
  }
}
