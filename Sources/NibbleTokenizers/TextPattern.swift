import NibbleCore

/// What a `Split` or `Replace` looks for: a regular expression or a plain text.
enum TextPattern: Sendable {
  case regex(Pattern)
  case literal([UInt8])

  /// Calls `body` with the place of each match, from left to right and without overlap.
  func forEachMatch(in bytes: UnsafeBufferPointer<UInt8>, _ body: (Int, Int) throws -> Void) throws {
    switch self {
    case .regex(let pattern): try pattern.forEachMatch(in: bytes, body)
    case .literal(let text):
      guard let first = text.first else { return }
      var at = 0
      while at + text.count <= bytes.count {
        if bytes[at] == first, bytes[at..<at + text.count].elementsEqual(text) {
          try body(at, at + text.count)
          at += text.count
        } else {
          at += 1
        }
      }
    }
  }
}
