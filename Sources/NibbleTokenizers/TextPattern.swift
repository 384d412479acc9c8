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

  /// `bytes` with every match replaced.
  ///
  /// - Parameter onMatch: gets the place of each
  /// - Throws: `.badInput` if the result is longer than `limit`, and what patterns throw
  func replacing(
    in bytes: [UInt8], with content: [UInt8], limit: Int, onMatch: (_ start: Int, _ end: Int) -> Void = { _, _ in }
  ) throws -> [UInt8] {
    var result: [UInt8] = []
    result.reserveCapacity(bytes.count)
    var last = 0
    func check() throws {
      guard result.count <= limit else {
        throw NibbleError.badInput("the tokenizer's rules make more than \(limit) bytes of a short text")
      }
    }
    try bytes.withUnsafeBufferPointer { buffer in
      try forEachMatch(in: buffer) { start, end in
        onMatch(start, end)
        result.append(contentsOf: buffer[last..<start])
        result.append(contentsOf: content)
        last = end
        try check()
      }
    }
    result.append(contentsOf: bytes[last...])
    try check()
    return result
  }
}
