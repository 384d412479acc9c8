/// The order in which a file has the numbers of a section, where that is not the order in which they are used.
///
/// In use a section is a matrix, row after row: codes two a byte, the first in the high half; zeros in bytes; scales.
package enum SectionOrder: Hashable, Sendable {
  /// The halves of each byte are exchanged.
  case swapped
  /// Column after column, numbers of `width` bytes.
  case turned(rows: Int, columns: Int, width: Int)
  /// Words of 32 bits with eight codes of a row each, the first in the lowest bits: [columns / 8, rows].
  case columnWords(rows: Int, columns: Int)
  /// Words of 32 bits with eight codes of a column each.
  case rowWords(RowWords)
  /// Rows of `rowBytes`; of each head's rows those of its two halves alternate.
  case interleavedHalves(heads: Int, rows: Int, rowBytes: Int)
  /// Zeros stand in front that are not stored.
  case behindZeros(bytes: Int)

  /// Words of 32 bits with eight codes of a column each.
  package struct RowWords: Hashable, Sendable {
    var rows, columns: Int
    /// Whether the words of a column follow one another, [columns, rows / 8]; else those of a row, [rows / 8, columns].
    var isTurned = true
    /// Where in a word the codes of rows 0 to 7 are, counted from the lowest bits.
    var places: [UInt32] = Array(0..<8)
    /// Whether a code takes a byte in use, as zeros do, and not half of one.
    var areBytes = false
    /// What is added to a word before it is taken apart.
    var added: UInt32 = 0

    var wordRows: Int { (rows + 7) / 8 }
    /// Bytes of a row in use.
    var rowBytes: Int { areBytes ? columns : columns / 2 }
  }

  /// Whether bytes stay where they are.
  var isInPlace: Bool { self == .swapped }

  /// Lines of the stored matrix and bytes of one; nil where bytes stay where they are.
  private var lines: (count: Int, bytes: Int)? {
    switch self {
    case .swapped, .interleavedHalves, .behindZeros: nil
    case .turned(let rows, let columns, let width): (columns, rows * width)
    case .columnWords(let rows, let columns): (columns / 8, rows * 4)
    case .rowWords(let words): words.isTurned ? (words.columns, words.wordRows * 4) : (words.wordRows, words.columns * 4)
    }
  }

  /// Bytes in the file of a section that takes `plain` bytes in use.
  func storedLength(plain: Int) -> Int { lines.map { $0.count * $0.bytes } ?? plain }
}

// MARK: - From the file

extension SectionOrder {
  /// Rows that are read together: their numbers share words, or lines of a cache.
  private var blockRows: Int { if case .rowWords = self { 8 } else { 16 } }

  private var shape: (rows: Int, rowBytes: Int) {
    switch self {
    case .swapped, .behindZeros: (0, 1)
    case .turned(let rows, let columns, let width): (rows, columns * width)
    case .columnWords(let rows, let columns): (rows, columns / 2)
    case .rowWords(let words): (words.rows, words.rowBytes)
    case .interleavedHalves(_, let rows, let rowBytes): (rows, rowBytes)
    }
  }

  /// Fills `buffer` with the bytes from `offset` of a section in use.
  ///
  /// - Parameter stored: the whole section as the file has it
  func fill(_ buffer: UnsafeMutableRawBufferPointer, from offset: Int, of stored: UnsafeRawBufferPointer) {
    guard let from = stored.baseAddress, let to = buffer.baseAddress else { return }
    if isInPlace {
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: stored[offset..<offset + buffer.count]))
      return buffer.swapNibbles()
    }
    if case .behindZeros(let count) = self {
      let zeros = min(max(count - offset, 0), buffer.count)
      UnsafeMutableRawBufferPointer(rebasing: buffer[..<zeros]).initializeMemory(as: UInt8.self, repeating: 0)
      let first = max(offset - count, 0)
      return UnsafeMutableRawBufferPointer(rebasing: buffer[zeros...])
        .copyMemory(from: UnsafeRawBufferPointer(rebasing: stored[first..<first + buffer.count - zeros]))
    }
    let (rows, rowBytes) = shape
    let end = offset + buffer.count
    var first = offset / rowBytes / blockRows * blockRows
    while first * rowBytes < end {
      let count = min(blockRows, rows - first)
      let (start, stop) = (first * rowBytes, (first + count) * rowBytes)
      if start >= offset, stop <= end {
        unpack(first, count, from, to + (start - offset))
      } else {
        withUnsafeTemporaryAllocation(byteCount: count * rowBytes, alignment: 16) { block in
          guard let base = block.baseAddress else { return }
          unpack(first, count, from, base)
          let (low, high) = (max(start, offset), min(stop, end))
          (to + (low - offset)).copyMemory(from: base + (low - start), byteCount: high - low)
        }
      }
      first += count
    }
  }

  /// Rows `first..<first + count` in use; of words of rows, the eight that share words.
  private func unpack(_ first: Int, _ count: Int, _ stored: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) {
    switch self {
    case .swapped, .behindZeros: break
    case .interleavedHalves(let heads, let rows, let rowBytes):
      let half = rows / heads / 2
      for row in 0..<count {
        let (head, place) = (first + row).quotientAndRemainder(dividingBy: 2 * half)
        let from = head * 2 * half + place % half * 2 + place / half
        (out + row * rowBytes).copyMemory(from: stored + from * rowBytes, byteCount: rowBytes)
      }
    case .turned(let rows, let columns, 2): Self.turn(UInt16.self, first, count, rows, columns, stored, out)
    case .turned(let rows, let columns, _): Self.turn(UInt32.self, first, count, rows, columns, stored, out)
    case .columnWords(let rows, let columns):
      for word in 0..<columns / 8 {
        let from = stored + 4 * (word * rows + first)
        for row in 0..<count {
          let codes = (from + 4 * row).loadUnaligned(as: UInt32.self)
          (out + row * (columns / 2) + 4 * word).storeBytes(of: codes.swappedNibbles, as: UInt32.self)
        }
      }
    case .rowWords(let words):
      let (step, start) =
        words.isTurned ? (4 * words.wordRows, first / 8 * 4) : (4, first / 8 * 4 * words.columns)
      let from = stored + start
      let bytes = out.assumingMemoryBound(to: UInt8.self)
      for row in 0..<count {
        let shift = 4 * words.places[row], line = bytes + row * words.rowBytes
        func code(_ column: Int) -> UInt8 {
          UInt8(truncatingIfNeeded: ((from + step * column).loadUnaligned(as: UInt32.self) &+ words.added) >> shift) & 15
        }
        if words.areBytes {
          for column in 0..<words.columns { line[column] = code(column) }
        } else {
          for pair in 0..<words.columns / 2 { line[pair] = code(2 * pair) << 4 | code(2 * pair + 1) }
        }
      }
    }
  }

  private static func turn<T: BitwiseCopyable>(
    _: T.Type, _ first: Int, _ count: Int, _ rows: Int, _ columns: Int, _ stored: UnsafeRawPointer, _ out: UnsafeMutableRawPointer
  ) {
    let width = MemoryLayout<T>.size
    for column in 0..<columns {
      for row in 0..<count {
        let number = (stored + (column * rows + first + row) * width).loadUnaligned(as: T.self)
        (out + (row * columns + column) * width).storeBytes(of: number, as: T.self)
      }
    }
  }
}

// MARK: - Into the file

extension SectionOrder {
  /// Bytes of the stored form that are made at a time.
  private static let pieceBytes = 1 << 20

  /// Calls `body` with the stored form of a whole section, piece after piece.
  func forEachStored(_ plain: UnsafeRawBufferPointer, _ body: (UnsafeRawBufferPointer) throws -> Void) rethrows {
    guard let lines, lines.bytes > 0, let from = plain.baseAddress else { return }
    let together = max(1, Self.pieceBytes / lines.bytes)
    try withUnsafeTemporaryAllocation(byteCount: min(together, lines.count) * lines.bytes, alignment: 16) { piece in
      guard let out = piece.baseAddress else { return }
      for first in stride(from: 0, to: lines.count, by: together) {
        let count = min(together, lines.count - first)
        for line in 0..<count { pack(first + line, from, out + line * lines.bytes) }
        try body(UnsafeRawBufferPointer(start: out, count: count * lines.bytes))
      }
    }
  }

  /// One line of the stored matrix.
  private func pack(_ line: Int, _ plain: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) {
    switch self {
    case .swapped, .interleavedHalves, .behindZeros: break  // read only
    case .turned(let rows, let columns, 2): Self.column(UInt16.self, line, rows, columns, plain, out)
    case .turned(let rows, let columns, _): Self.column(UInt32.self, line, rows, columns, plain, out)
    case .columnWords(let rows, let columns):
      for row in 0..<rows {
        let codes = (plain + row * (columns / 2) + 4 * line).loadUnaligned(as: UInt32.self)
        (out + 4 * row).storeBytes(of: codes.swappedNibbles, as: UInt32.self)
      }
    case .rowWords(let words):
      func word(_ row: Int, _ column: Int) -> UInt32 {
        var word: UInt32 = 0
        for place in 0..<min(8, words.rows - 8 * row) {
          let line = plain + (8 * row + place) * words.rowBytes
          let byte = (line + (words.areBytes ? column : column / 2)).load(as: UInt8.self)
          let code = words.areBytes ? byte & 15 : column % 2 == 0 ? byte >> 4 : byte & 15
          word |= UInt32(code) << (4 * words.places[place])
        }
        return word &- words.added
      }
      for at in 0..<(words.isTurned ? words.wordRows : words.columns) {
        (out + 4 * at).storeBytes(of: words.isTurned ? word(at, line) : word(line, at), as: UInt32.self)
      }
    }
  }

  private static func column<T: BitwiseCopyable>(
    _: T.Type, _ column: Int, _ rows: Int, _ columns: Int, _ plain: UnsafeRawPointer, _ out: UnsafeMutableRawPointer
  ) {
    let width = MemoryLayout<T>.size
    for row in 0..<rows {
      let number = (plain + (row * columns + column) * width).loadUnaligned(as: T.self)
      (out + row * width).storeBytes(of: number, as: T.self)
    }
  }
}

extension UInt32 {
  /// The halves of each byte exchanged.
  fileprivate var swappedNibbles: UInt32 { (self & 0x0F0F_0F0F) << 4 | (self >> 4) & 0x0F0F_0F0F }
}

extension UnsafeMutableRawBufferPointer {
  /// Exchanges the halves of each byte.
  func swapNibbles() {
    guard let start = baseAddress else { return }
    var at = 0
    while at + 8 <= count {
      let word = (start + at).loadUnaligned(as: UInt64.self), low: UInt64 = 0x0F0F_0F0F_0F0F_0F0F
      (start + at).storeBytes(of: (word & low) << 4 | (word >> 4) & low, as: UInt64.self)
      at += 8
    }
    while at < count {
      self[at] = self[at] << 4 | self[at] >> 4
      at += 1
    }
  }
}
