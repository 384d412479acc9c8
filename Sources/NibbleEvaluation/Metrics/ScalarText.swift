/// A text as Unicode scalars, rewritten step by step the way the original tokenizers' substitutions do: from left to right, each
/// match taking the characters it saw.
struct ScalarText {
  typealias Class = (Unicode.Scalar) -> Bool

  private(set) var scalars: [Unicode.Scalar]

  init(_ text: String) { scalars = Array(text.unicodeScalars) }

  var string: String { String(taking: scalars) }

  func contains(_ part: String) -> Bool {
    let part = Array(part.unicodeScalars)
    return scalars.indices.contains { scalars[$0...].starts(with: part) }
  }

  /// Puts `new` for every `old`.
  mutating func replace(_ old: String, _ new: String) {
    let (old, new) = (Array(old.unicodeScalars), Array(new.unicodeScalars))
    rewrite { scalars, at in scalars[at...].starts(with: old) ? (old.count, new) : nil }
  }

  /// Puts something else for every single character of a class.
  mutating func replace(_ isOne: Class, _ new: (Unicode.Scalar) -> [Unicode.Scalar]) {
    rewrite { scalars, at in isOne(scalars[at]) ? (1, new(scalars[at])) : nil }
  }

  /// Puts something else for every pair of neighbours of two classes.
  mutating func replace(_ isFirst: Class, _ isSecond: Class, _ new: (Unicode.Scalar, Unicode.Scalar) -> [Unicode.Scalar]) {
    rewrite { scalars, at in
      guard at + 1 < scalars.count, isFirst(scalars[at]), isSecond(scalars[at + 1]) else { return nil }
      return (2, new(scalars[at], scalars[at + 1]))
    }
  }

  /// Puts `new` for every `middle` between characters of two classes, which stay.
  mutating func replace(_ isLeft: Class, _ middle: Unicode.Scalar, _ isRight: Class, _ new: String) {
    rewrite { scalars, at in
      guard at + 2 < scalars.count, scalars[at + 1] == middle, isLeft(scalars[at]), isRight(scalars[at + 2]) else { return nil }
      return (3, [scalars[at]] + new.unicodeScalars + [scalars[at + 2]])
    }
  }

  /// Each place asks `match`, which tells how many characters it takes and what stands for them.
  mutating func rewrite(_ match: ([Unicode.Scalar], Int) -> (taken: Int, new: [Unicode.Scalar])?) {
    var written: [Unicode.Scalar] = []
    written.reserveCapacity(scalars.count + scalars.count / 2)
    var at = 0
    while at < scalars.count {
      if let (taken, new) = match(scalars, at), taken > 0 {
        written += new
        at += taken
      } else {
        written.append(scalars[at])
        at += 1
      }
    }
    scalars = written
  }

  /// What stands between characters of a class.
  func words(between isSpace: Class) -> [String] {
    scalars.split(whereSeparator: isSpace).map { String(taking: $0) }
  }
}

extension String {
  init(taking scalars: some Sequence<Unicode.Scalar>) {
    self.init(UnicodeScalarView(scalars))
  }
}

extension Unicode.Scalar {
  var isDigit: Bool { "0"..."9" ~= self }
  /// What Python's `split` and `\\s` take for white space.
  var isPythonSpace: Bool { properties.isWhitespace || 0x1C...0x1F ~= value }
}
