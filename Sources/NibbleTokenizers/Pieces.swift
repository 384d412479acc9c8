/// A text cut into pieces.
struct Pieces {
  struct Piece {
    var start: Int
    var end: Int
    /// Whether the piece starts where the original text does.
    var isFirst: Bool
  }

  var bytes: [UInt8]
  var list: [Piece]

  init(_ bytes: [UInt8], isFirst: Bool) {
    self.bytes = bytes
    list = bytes.isEmpty ? [] : [Piece(start: 0, end: bytes.count, isFirst: isFirst)]
  }

  /// Replaces each piece by what `cut` makes of it, given its bytes and a place for the ends of parts.
  mutating func split(_ cut: (UnsafeBufferPointer<UInt8>, inout [SplitBehavior.Part]) throws -> Void) rethrows {
    var result: [Piece] = []
    result.reserveCapacity(list.count)
    var parts: [SplitBehavior.Part] = []
    try bytes.withUnsafeBufferPointer { bytes in
      for piece in list {
        parts.removeAll(keepingCapacity: true)
        try cut(UnsafeBufferPointer(rebasing: bytes[piece.start..<piece.end]), &parts)
        for part in parts where part.start < part.end {
          result.append(
            Piece(start: piece.start + part.start, end: piece.start + part.end, isFirst: piece.isFirst && part.start == 0))
        }
      }
    }
    list = result
  }

  /// Replaces the text of each piece.
  mutating func rewrite(_ change: (ArraySlice<UInt8>, _ isFirst: Bool, inout [UInt8]) -> Void) {
    var result: [UInt8] = []
    result.reserveCapacity(bytes.count)
    for index in list.indices {
      let start = result.count
      change(bytes[list[index].start..<list[index].end], list[index].isFirst, &result)
      list[index].start = start
      list[index].end = result.count
    }
    bytes = result
  }
}

/// What becomes of the delimiters that a text is split at.
enum SplitBehavior: String, Sendable {
  case removed = "Removed"
  case isolated = "Isolated"
  case mergedWithPrevious = "MergedWithPrevious"
  case mergedWithNext = "MergedWithNext"
  case contiguous = "Contiguous"

  /// A part of a text: a delimiter, or what stands between two of them.
  struct Part {
    var start: Int
    var end: Int
    var isMatch: Bool
  }

  /// Turns parts that cover a text into pieces.
  func apply(_ parts: inout [Part]) {
    switch self {
    case .isolated: break
    case .removed: parts.removeAll { $0.isMatch }
    case .contiguous: merge(&parts) { isMatch, previous in isMatch == previous }
    case .mergedWithPrevious: merge(&parts) { isMatch, previous in isMatch && !previous }
    case .mergedWithNext:
      parts.reverse()
      merge(&parts) { isMatch, previous in isMatch && !previous }
      parts.reverse()
    }
  }

  /// Merges each part into the one before it where `joins` says so.
  private func merge(_ parts: inout [Part], joins: (_ isMatch: Bool, _ previous: Bool) -> Bool) {
    var result: [Part] = []
    var previous = false
    for part in parts {
      if joins(part.isMatch, previous), let last = result.last {
        result[result.count - 1].start = min(last.start, part.start)
        result[result.count - 1].end = max(last.end, part.end)
      } else {
        result.append(part)
      }
      previous = part.isMatch
    }
    parts = result
  }
}
