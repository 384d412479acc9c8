import NibbleCore

/// How a normalized text is cut into the words that a model sees: one step, or several.
indirect enum PreTokenizer: Sendable {
  enum Prepending: String, Sendable { case always, first, never }

  /// Spells bytes as characters. `spells` is false where the model takes the bytes themselves.
  case byteLevel(addsSpace: Bool, pattern: Pattern?, spells: Bool)
  case whitespace
  case whitespaceSplit
  case bert
  case punctuation(SplitBehavior)
  case digits(eachAlone: Bool)
  case delimiter([UInt8])
  case metaspace(replacement: [UInt8], Prepending, splits: Bool)
  case split(TextPattern, SplitBehavior, inverted: Bool)
  case sequence([PreTokenizer])

  func apply(_ pieces: inout Pieces) throws {
    switch self {
    case .byteLevel(let addsSpace, let pattern, let spells):
      if addsSpace {
        pieces.rewrite { text, _, result in
          if text.first != UInt8(ascii: " ") { result.append(UInt8(ascii: " ")) }
          result.append(contentsOf: text)
        }
      }
      if let pattern { try split(&pieces, .regex(pattern), .isolated, inverted: false) }
      if spells {
        pieces.rewrite { text, _, result in
          for byte in text { result.append(contentsOf: ByteAlphabet.characters[Int(byte)]) }
        }
      }
    case .whitespace:
      splitRuns(&pieces) { CharacterClass.isSpace($0) ? nil : CharacterClass.isWord($0) ? 1 : 2 }
    case .whitespaceSplit: splitRuns(&pieces) { CharacterClass.isSpace($0) ? nil : 1 }
    case .bert:
      splitRuns(&pieces) { CharacterClass.isSpace($0) ? nil : CharacterClass.isPunctuation($0) ? 0 : 1 }
    case .punctuation(let behavior): splitCharacters(&pieces, behavior, CharacterClass.isPunctuation)
    case .digits(let eachAlone): splitCharacters(&pieces, eachAlone ? .isolated : .contiguous, CharacterClass.isNumber)
    case .delimiter(let text): try split(&pieces, .literal(text), .removed, inverted: false)
    case .metaspace(let replacement, let prepending, let splits):
      pieces.rewrite { text, isFirst, result in
        let prepends = prepending == .always || prepending == .first && isFirst
        if prepends, text.first != UInt8(ascii: " "), !text.starts(with: replacement) {
          result.append(contentsOf: replacement)
        }
        for byte in text {
          if byte == UInt8(ascii: " ") { result.append(contentsOf: replacement) } else { result.append(byte) }
        }
      }
      if splits { try split(&pieces, .literal(replacement), .mergedWithNext, inverted: false) }
    case .split(let pattern, let behavior, let inverted): try split(&pieces, pattern, behavior, inverted: inverted)
    case .sequence(let steps): for step in steps { try step.apply(&pieces) }
    }
  }

  private func split(
    _ pieces: inout Pieces, _ pattern: TextPattern, _ behavior: SplitBehavior, inverted: Bool
  ) throws {
    try pieces.split { text, parts in
      var last = 0
      try pattern.forEachMatch(in: text) { start, end in
        if last < start { parts.append(.init(start: last, end: start, isMatch: inverted)) }
        parts.append(.init(start: start, end: end, isMatch: !inverted))
        last = end
      }
      if last < text.count { parts.append(.init(start: last, end: text.count, isMatch: inverted)) }
      behavior.apply(&parts)
    }
  }

  /// Cuts where the kind of characters changes; nil is left out, and each character of kind 0 is a piece of its own.
  private func splitRuns(_ pieces: inout Pieces, _ kind: (Unicode.Scalar) -> Int?) {
    pieces.split { text, parts in
      var last: Int?
      forEachScalar(in: text) { scalar, start, end in
        let kind = kind(scalar)
        if kind == nil {
        } else if kind == last, kind != 0 {
          parts[parts.count - 1].end = end
        } else {
          parts.append(.init(start: start, end: end, isMatch: false))
        }
        last = kind
      }
    }
  }

  private func splitCharacters(_ pieces: inout Pieces, _ behavior: SplitBehavior, _ matches: (Unicode.Scalar) -> Bool) {
    pieces.split { text, parts in
      forEachScalar(in: text) { scalar, start, end in
        let isMatch = matches(scalar)
        if !isMatch, let last = parts.last, !last.isMatch {
          parts[parts.count - 1].end = end
        } else {
          parts.append(.init(start: start, end: end, isMatch: isMatch))
        }
      }
      behavior.apply(&parts)
    }
  }
}

/// Calls `body` with the characters of valid UTF-8 and their places.
func forEachScalar(in text: UnsafeBufferPointer<UInt8>, _ body: (Unicode.Scalar, _ start: Int, _ end: Int) -> Void) {
  var at = 0
  while at < text.count {
    let end = min(at + utf8Length(text[at]), text.count)
    if text[at] < 0x80 {
      body(Unicode.Scalar(text[at]), at, end)
    } else {
      let length = end - at
      var value = UInt32(text[at]) & (length == 2 ? 0x1F : length == 3 ? 0x0F : 0x07)
      for byte in text[at + 1..<end] { value = value << 6 | UInt32(byte & 0x3F) }
      let scalar = Unicode.Scalar(value) ?? "\u{FFFD}"
      body(scalar, at, end)
    }
    at = end
  }
}
