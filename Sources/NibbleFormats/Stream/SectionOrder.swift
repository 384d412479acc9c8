/// How a file has the numbers of a section, where that is not how they are used: in another order, mostly.
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
  /// Rows of each head in another order: row p of its first half, then row p of its second.
  case interleaved(headRows: Int, rowBytes: Int)
  /// The first bytes are not in the file; they are read as zeros.
  case withoutFirst(Int)
  /// Numbers in float32, each one more than in use.
  case plusOne
  /// Groups of parts, in use one group after another; in the file the first part of every group, then the second, and so on.
  case gathered(GatheredParts)

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

  /// So many groups, each of parts of so many bytes.
  package struct GatheredParts: Hashable, Sendable {
    var groups: Int
    var parts: [Int]

    /// Calls `body` with each part of each group in use: its place there, that in the file, and its bytes.
    func forEach(_ body: (_ used: Int, _ stored: Int, _ count: Int) throws -> Void) rethrows {
      let group = parts.reduce(0, +)
      for index in 0..<groups {
        var before = 0
        for part in parts {
          try body(index * group + before, groups * before + index * part, part)
          before += part
        }
      }
    }
  }

  /// Whether bytes stay where they are.
  var isInPlace: Bool { self == .swapped || self == .plusOne }

  /// Bytes that change places among themselves and with no others; nil for the whole section.
  var groupBytes: Int? { if case .interleaved(let rows, let bytes) = self { rows * bytes } else { nil } }

  /// Brings bytes that stay where they are into the form they have in the file, or back from it.
  func apply(_ bytes: UnsafeMutableRawBufferPointer, isWriting: Bool) {
    switch self {
    case .swapped: bytes.swapNibbles()
    case .plusOne:
      let step: Float = isWriting ? 1 : -1
      for at in stride(from: 0, to: bytes.count - 3, by: 4) {
        bytes.storeBytes(of: bytes.loadUnaligned(fromByteOffset: at, as: Float.self) + step, toByteOffset: at, as: Float.self)
      }
    default: break
    }
  }

  /// Lines of the stored matrix and bytes of one; nil where bytes stay where they are.
  private var lines: (count: Int, bytes: Int)? {
    switch self {
    case .swapped, .interleaved, .withoutFirst, .plusOne, .gathered: nil
    case .turned(let rows, let columns, let width): (columns, rows * width)
    case .columnWords(let rows, let columns): (columns / 8, rows * 4)
    case .rowWords(let words): words.isTurned ? (words.columns, words.wordRows * 4) : (words.wordRows, words.columns * 4)
    }
  }

  /// Bytes in the file of a section that takes `plain` bytes in use.
  func storedLength(plain: Int) -> Int {
    if case .withoutFirst(let first) = self { return max(0, plain - first) }
    return lines.map { $0.count * $0.bytes } ?? plain
  }
}

// MARK: - From the file

extension SectionOrder {
  /// Rows that are read together: their numbers share words, or lines of a cache.
  private var blockRows: Int { if case .rowWords = self { 8 } else { 16 } }

  private var shape: (rows: Int, rowBytes: Int) {
    switch self {
    case .swapped, .interleaved, .withoutFirst, .plusOne, .gathered: (0, 1)
    case .turned(let rows, let columns, let width): (rows, columns * width)
    case .columnWords(let rows, let columns): (rows, columns / 2)
    case .rowWords(let words): (words.rows, words.rowBytes)
    }
  }

  /// Fills `buffer` with the bytes from `offset` of a section in use.
  ///
  /// - Parameter stored: the whole section as the file has it
  func fill(_ buffer: UnsafeMutableRawBufferPointer, from offset: Int, of stored: UnsafeRawBufferPointer) {
    guard let from = stored.baseAddress, let to = buffer.baseAddress else { return }
    if isInPlace {
      buffer.copyMemory(from: UnsafeRawBufferPointer(rebasing: stored[offset..<offset + buffer.count]))
      return apply(buffer, isWriting: false)
    }
    if case .interleaved(let rows, let bytes) = self { return Self.fill(buffer, from: offset, of: stored, rows, bytes) }
    if case .gathered(let parts) = self {
      let end = offset + buffer.count
      return parts.forEach { used, place, count in
        let (low, high) = (max(used, offset), min(used + count, end))
        if low < high { (to + (low - offset)).copyMemory(from: from + place + (low - used), byteCount: high - low) }
      }
    }
    if case .withoutFirst(let first) = self {
      let zeros = min(buffer.count, max(0, first - offset))
      for at in 0..<zeros { buffer[at] = 0 }
      let start = offset + zeros - first, rest = buffer[zeros...]
      if !rest.isEmpty {
        UnsafeMutableRawBufferPointer(rebasing: rest).copyMemory(
          from: UnsafeRawBufferPointer(rebasing: stored[start..<start + rest.count]))
      }
      return
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

  /// Rows of heads from pairs back into halves.
  private static func fill(
    _ buffer: UnsafeMutableRawBufferPointer, from offset: Int, of stored: UnsafeRawBufferPointer, _ headRows: Int, _ rowBytes: Int
  ) {
    guard let from = stored.baseAddress, let to = buffer.baseAddress else { return }
    var done = 0
    while done < buffer.count {
      let (row, column) = (offset + done).quotientAndRemainder(dividingBy: rowBytes)
      let (head, place) = row.quotientAndRemainder(dividingBy: headRows)
      let count = min(rowBytes - column, buffer.count - done), half = headRows / 2
      let other = head * headRows + (place < half ? 2 * place : 2 * (place - half) + 1)
      (to + done).copyMemory(from: from + other * rowBytes + column, byteCount: count)
      done += count
    }
  }

  /// Rows `first..<first + count` in use; of words of rows, the eight that share words.
  private func unpack(_ first: Int, _ count: Int, _ stored: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) {
    switch self {
    case .swapped, .interleaved, .withoutFirst, .plusOne, .gathered: break
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
    if case .withoutFirst(let first) = self { return try body(UnsafeRawBufferPointer(rebasing: plain[min(first, plain.count)...])) }
    if case .interleaved(let rows, let bytes) = self { return try Self.forEachHead(plain, rows, bytes, body) }
    if case .gathered(let gathered) = self {
      // In the order of the file: a part of all groups, then the next part.
      let group = gathered.parts.reduce(0, +)
      var before = 0
      for part in gathered.parts {
        for index in 0..<gathered.groups where part > 0 {
          let start = index * group + before
          try body(UnsafeRawBufferPointer(rebasing: plain[start..<start + part]))
        }
        before += part
      }
      return
    }
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

  /// Heads whose rows lie in pairs.
  private static func forEachHead(
    _ plain: UnsafeRawBufferPointer, _ headRows: Int, _ rowBytes: Int, _ body: (UnsafeRawBufferPointer) throws -> Void
  ) rethrows {
    guard headRows > 0, rowBytes > 0 else { return }
    try withUnsafeTemporaryAllocation(byteCount: headRows * rowBytes, alignment: 16) { piece in
      for start in stride(from: 0, to: plain.count, by: headRows * rowBytes) {
        guard let from = plain.baseAddress, let to = piece.baseAddress else { return }
        for row in 0..<headRows {
          let other = row % 2 * (headRows / 2) + row / 2
          (to + row * rowBytes).copyMemory(from: from + start + other * rowBytes, byteCount: rowBytes)
        }
        try body(UnsafeRawBufferPointer(piece))
      }
    }
  }

  /// One line of the stored matrix.
  private func pack(_ line: Int, _ plain: UnsafeRawPointer, _ out: UnsafeMutableRawPointer) {
    switch self {
    case .swapped, .interleaved, .withoutFirst, .plusOne, .gathered: break
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
