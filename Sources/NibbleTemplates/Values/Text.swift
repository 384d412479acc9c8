/// Python's `str`: code points, counted and compared one by one. Swift's `String` counts grapheme clusters, and takes canonically
/// equivalent texts for equal.
struct Text: Hashable, Comparable, Sendable, ExpressibleByStringLiteral {
  var scalars: [Unicode.Scalar]

  init(_ scalars: [Unicode.Scalar] = []) { self.scalars = scalars }
  init(_ scalars: ArraySlice<Unicode.Scalar>) { self.scalars = Array(scalars) }
  init(_ string: String) { scalars = Array(string.unicodeScalars) }
  init(stringLiteral string: String) { self.init(string) }

  var count: Int { scalars.count }
  var isEmpty: Bool { scalars.isEmpty }

  var string: String {
    var view = String.UnicodeScalarView()
    view.append(contentsOf: scalars)
    return String(view)
  }

  static func < (a: Text, b: Text) -> Bool { a.scalars.lexicographicallyPrecedes(b.scalars) }
  static func + (a: Text, b: Text) -> Text { Text(a.scalars + b.scalars) }
  static func += (a: inout Text, b: Text) { a.scalars += b.scalars }

  /// Where `part` begins at or after `start`, with all of it before `end`.
  func find(_ part: Text, from start: Int = 0, to end: Int? = nil) -> Int? {
    let last = (end ?? count) - part.count
    guard start <= last else { return nil }
    guard let first = part.scalars.first else { return start }
    var at = start
    while at <= last {
      if scalars[at] == first, matches(part, at: at) { return at }
      at += 1
    }
    return nil
  }

  /// Where the last `part` begins that lies between `start` and `end`.
  func findLast(_ part: Text, from start: Int = 0, to end: Int? = nil) -> Int? {
    var at = (end ?? count) - part.count
    while at >= start {
      if matches(part, at: at) { return at }
      at -= 1
    }
    return nil
  }

  /// Whether `part` stands at `start`.
  func matches(_ part: Text, at start: Int) -> Bool {
    guard start >= 0, start + part.count <= count else { return false }
    for index in 0..<part.count where scalars[start + index] != part.scalars[index] { return false }
    return true
  }

  func contains(_ part: Text) -> Bool { find(part) != nil }
  func hasPrefix(_ part: Text) -> Bool { matches(part, at: 0) }
  func hasSuffix(_ part: Text) -> Bool { matches(part, at: count - part.count) }

  subscript(range: Range<Int>) -> Text { Text(scalars[range]) }

  /// Without the characters at its ends for which `isCut` holds.
  func trimmed(start: Bool = true, end: Bool = true, _ isCut: (Unicode.Scalar) -> Bool) -> Text {
    var first = 0, last = count
    if start { while first < last, isCut(scalars[first]) { first += 1 } }
    if end { while last > first, isCut(scalars[last - 1]) { last -= 1 } }
    return Text(scalars[first..<last])
  }

  var trimmed: Text { trimmed { $0.isPythonSpace } }

  /// Pieces between `separator`s, of which at most `limit` are used, from the left.
  func split(_ separator: Text, limit: Int = .max) -> [Text] {
    var pieces: [Text] = [], start = 0
    while pieces.count < limit, let at = find(separator, from: start) {
      pieces.append(self[start..<at])
      start = at + separator.count
    }
    return pieces + [self[start..<count]]
  }

  /// The same, from the right.
  func splitFromRight(_ separator: Text, limit: Int) -> [Text] {
    var pieces: [Text] = [], end = count
    while pieces.count < limit, let at = findLast(separator, to: end) {
      pieces.append(self[at + separator.count..<end])
      end = at
    }
    return (pieces + [self[0..<end]]).reversed()
  }

  /// Words between runs of white space; what follows after `limit` cuts stays whole.
  func words(limit: Int = .max) -> [Text] {
    var words: [Text] = [], at = 0
    while true {
      while at < count, scalars[at].isPythonSpace { at += 1 }
      guard at < count else { return words }
      if words.count == limit { return words + [self[at..<count]] }
      let start = at
      while at < count, !scalars[at].isPythonSpace { at += 1 }
      words.append(self[start..<at])
    }
  }

  /// The same, from the right.
  func wordsFromRight(limit: Int) -> [Text] {
    var words: [Text] = [], end = count
    while true {
      while end > 0, scalars[end - 1].isPythonSpace { end -= 1 }
      guard end > 0 else { return words.reversed() }
      if words.count == limit { return (words + [self[0..<end]]).reversed() }
      let last = end
      while end > 0, !scalars[end - 1].isPythonSpace { end -= 1 }
      words.append(self[end..<last])
    }
  }

  /// Python's `splitlines`.
  func lines(keepingEnds: Bool = false) -> [Text] {
    var lines: [Text] = [], start = 0, at = 0
    while at < count {
      guard scalars[at].isPythonLineEnd else {
        at += 1
        continue
      }
      let end = at
      at += scalars[at] == "\r" && at + 1 < count && scalars[at + 1] == "\n" ? 2 : 1
      lines.append(self[start..<(keepingEnds ? at : end)])
      start = at
    }
    return start < count ? lines + [self[start..<count]] : lines
  }

  /// Each `old` as `new`, at most `limit` times.
  func replacing(_ old: Text, with new: Text, limit: Int) -> Text {
    var out: [Unicode.Scalar] = []
    guard !old.isEmpty else {
      // Python puts the new text before each character and at the end.
      for (index, scalar) in scalars.enumerated() {
        if index < limit { out += new.scalars }
        out.append(scalar)
      }
      return Text(count < limit ? out + new.scalars : out)
    }
    var start = 0, done = 0
    while done < limit, let at = find(old, from: start) {
      out += scalars[start..<at]
      out += new.scalars
      start = at + old.count
      done += 1
    }
    return Text(out + scalars[start...])
  }

  /// How often `part` stands between `start` and `end`, without overlaps.
  func occurrences(of part: Text, from start: Int = 0, to end: Int? = nil) -> Int {
    let end = end ?? count
    guard start <= end else { return 0 }
    guard !part.isEmpty else { return end - start + 1 }
    var found = 0, at = start
    while let next = find(part, from: at, to: end) {
      found += 1
      at = next + part.count
    }
    return found
  }
}
