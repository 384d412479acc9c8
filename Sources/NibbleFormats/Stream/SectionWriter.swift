import NibbleCore
import NibbleQuant

/// Writes one section from consecutive pieces: pieces are packed on any thread, admitted in order, and put into
/// the file on any thread again.
final class SectionWriter: @unchecked Sendable {
  let kind: SectionKind
  let plainLength: Int
  let cursor: SectionCursor?
  private let compression: Compression
  /// The order that the container has the numbers in.
  private let order: SectionOrder?
  /// The bytes of a section whose order can only be made of all of them.
  private var waiting: [UInt8] = []
  private let level: Int
  /// Hashes what is stored; nil where nobody asks.
  private let hash: XXH3?
  /// Where the tensor's own digest covers the same bytes, it is the checksum too.
  private let sharesDigest: Bool

  // Changed in order, by one thread at a time.
  var start: Int?
  var storedLength = 0
  var checksum: UInt64 = 0
  /// The bytes of a section that is kept in memory.
  var captured: [UInt8] = []
  /// Whether the section is stored plain though it was to be compressed: its first piece became no smaller. nil before the first piece.
  var staysPlain: Bool?
  private var frames = ByteWriter()

  /// - Parameters:
  ///   - cursor: where the section goes; nil keeps the bytes in `captured`
  ///   - checksummed: whether the container keeps a checksum
  ///   - order: the order that the container has the numbers in, if that is not the one they come in
  init(
    _ kind: SectionKind, plainLength: Int, to cursor: SectionCursor?, checksummed: Bool,
    compression: Compression = .none, level: Int = 3, isFirst: Bool = false, order: SectionOrder? = nil
  ) {
    self.order = order
    self.kind = kind
    self.plainLength = plainLength
    self.cursor = cursor
    self.compression = compression
    self.level = level
    sharesDigest = checksummed && isFirst && compression == .none && order == nil
    hash = checksummed && !sharesDigest ? XXH3() : nil
  }

  var isCompressed: Bool { compression != .none }
  /// How the section is stored; known when it is written.
  var storedCompression: Compression { staysPlain == true ? .none : compression }

  private struct Piece {
    let plain: UnsafeRawBufferPointer
    var stored: UnsafeRawBufferPointer
    var frames: [Int]
  }

  /// Brings plain bytes into their stored form. A compressed section takes whole frames, but for its last piece.
  ///
  /// - Parameter slot: the first of two scratch slots to use
  private func pack(_ plain: UnsafeRawBufferPointer, _ scratch: Scratch, slot: Int) throws -> Piece {
    guard compression != .none else {
      guard let order, order.isInPlace else { return Piece(plain: plain, stored: plain, frames: []) }
      let out = scratch.bytes(slot, plain.count)
      out.copyMemory(from: plain)
      order.apply(out, isWriting: true)
      return Piece(plain: plain, stored: UnsafeRawBufferPointer(out), frames: [])
    }
    let bound = Zstd.bound(frameLength)
    let out = scratch.bytes(slot, ceilDivide(plain.count, frameLength) * bound)
    var length = 0
    var frames: [Int] = []
    for start in stride(from: 0, to: plain.count, by: frameLength) {
      var part = UnsafeRawBufferPointer(rebasing: plain[start..<min(start + frameLength, plain.count)])
      let planes = compression.planes
      if planes > 1, let from = part.baseAddress {
        let split = scratch.bytes(slot + 1, part.count)
        if let to = split.baseAddress {
          Kernels.splitPlanes(
            element: planes, from.assumingMemoryBound(to: UInt8.self), count: part.count / planes,
            to.assumingMemoryBound(to: UInt8.self))
        }
        part = UnsafeRawBufferPointer(split)
      }
      let frame = try Zstd.compress(part, level: level, into: .init(rebasing: out[length..<length + bound]))
      frames.append(frame)
      length += frame
    }
    return Piece(plain: plain, stored: UnsafeRawBufferPointer(rebasing: out[..<length]), frames: frames)
  }

  /// Takes the next piece in order; returns where in the file it belongs. The first piece decides whether all stay plain.
  private func admit(_ piece: inout Piece) throws -> Int {
    if compression != .none, staysPlain == nil { staysPlain = piece.stored.count + 4 * piece.frames.count >= piece.plain.count }
    if let order, !order.isInPlace {
      if waiting.isEmpty, order.groupBytes == nil { waiting.reserveCapacity(plainLength) }
      waiting += piece.stored
      if let group = order.groupBytes, group > 0, waiting.count >= group { try writeOrdered(waiting.count / group * group, order) }
      return 0
    }
    if staysPlain == true { (piece.stored, piece.frames) = (piece.plain, []) }
    hash?.update(piece.stored)
    for frame in piece.frames { frames.u32(frame) }
    return try reserve(piece.stored)
  }

  private func reserve(_ bytes: UnsafeRawBufferPointer) throws -> Int {
    storedLength += bytes.count
    guard let cursor else {
      captured += bytes
      return 0
    }
    if start == nil { start = try cursor.align() }
    return cursor.advance(bytes.count)
  }

  private func put(_ piece: Piece, at offset: Int) throws {
    if order?.isInPlace == false { return }
    try cursor?.file.write(piece.stored, at: offset)
  }

  /// A chunk's way out: packed on this thread, in its turn hashed and given a place, written on this thread.
  ///
  /// - Parameters:
  ///   - slot: the first of two scratch slots to use
  ///   - inOrder: what else is done in the chunk's turn
  func send(
    _ plain: UnsafeRawBufferPointer, _ index: Int, _ turnstile: Turnstile, _ digest: XXH3, _ scratch: Scratch, slot: Int,
    inOrder: () -> Void
  ) throws {
    var piece = try pack(plain, scratch, slot: slot)
    let offset = try turnstile.pass(index) {
      inOrder()
      digest.update(plain)
      return try admit(&piece)
    }
    try put(piece, at: offset)
  }

  /// Bytes that a section has in the file where it is not compressed.
  var expectedLength: Int { order?.storedLength(plain: plainLength) ?? plainLength }

  /// Ends the section.
  func finish(_ digest: XXH3) throws {
    if let order, !order.isInPlace {
      try writeOrdered(waiting.count, order)
      waiting = []
    }
    if storedCompression != .none {
      let table = frames.bytes
      hash?.update(table)
      try table.withUnsafeBytes { try cursor?.file.write($0, at: reserve($0)) }
    }
    if start == nil { start = try cursor?.align() }
    checksum = sharesDigest ? digest.digest64 : hash?.digest64 ?? 0
  }

  /// Writes the first `count` bytes that wait in the order that the container has them in.
  private func writeOrdered(_ count: Int, _ order: SectionOrder) throws {
    try waiting.withUnsafeBytes { plain in
      try order.forEachStored(UnsafeRawBufferPointer(rebasing: plain[..<count])) { bytes in
        hash?.update(bytes)
        try cursor?.file.write(bytes, at: reserve(bytes))
      }
    }
    waiting.removeFirst(count)
  }

  /// Writes a section that is in memory whole.
  func write(whole bytes: UnsafeRawBufferPointer, _ digest: XXH3, _ scratch: Scratch, slot: Int) throws {
    for start in stride(from: 0, to: bytes.count, by: 4 * frameLength) {
      let part = UnsafeRawBufferPointer(rebasing: bytes[start..<min(start + 4 * frameLength, bytes.count)])
      try send(next: part, digest, scratch, slot: slot)
    }
    try finish(digest)
  }

  /// Writes the next piece where nothing else is in the way.
  func send(next plain: UnsafeRawBufferPointer, _ digest: XXH3, _ scratch: Scratch, slot: Int) throws {
    var piece = try pack(plain, scratch, slot: slot)
    digest.update(plain)
    let offset = try admit(&piece)
    try put(piece, at: offset)
  }
}

/// Where in a file the next section goes.
final class SectionCursor {
  let file: OutputFile
  private(set) var position: Int
  /// Sections begin at multiples of this.
  var alignment: Int

  init(_ file: OutputFile, at position: Int, alignment: Int) {
    self.file = file
    self.position = position
    self.alignment = alignment
  }

  /// Fills up with zeros to the next multiple of the alignment.
  func align() throws -> Int {
    let padding = (alignment - position % alignment) % alignment
    if padding > 0 { try file.write([UInt8](repeating: 0, count: padding), at: position) }
    position += padding
    return position
  }

  /// Sets `count` bytes aside and returns where they begin.
  func advance(_ count: Int) -> Int {
    defer { position += count }
    return position
  }
}
