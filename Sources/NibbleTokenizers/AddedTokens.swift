import NibbleCore

/// A token that is looked for in the text itself, before a model sees it.
struct AddedToken: Sendable, Equatable {
  var text: [UInt8]
  var id: Int
  /// Whether it is no text but a mark: the end, a mask.
  var isSpecial = true
  /// Whether it counts only between characters that are no word's.
  var isSingleWord = false
  /// Whether it takes white space before, and after it, along.
  var stripsLeft = false
  var stripsRight = false
  /// Whether it is looked for in the normalized text.
  var isNormalized = false
}

/// The added tokens of a tokenizer, found from left to right, the longest first.
struct AddedTokens: Sendable {
  /// Longer ones are refused, for finding them would take long.
  static let maximumLength = 256

  private(set) var all: [AddedToken] = []
  private var original = TokenTrie()
  private var normalized = TokenTrie()
  private(set) var specialIDs: Set<Int> = []
  /// Tokens that the normalizer changes: Hugging Face's library decodes them as they are looked for.
  private(set) var respelled: [Int: [UInt8]] = [:]

  var isEmpty: Bool { all.isEmpty }

  /// - Parameter normalize: what the normalizer makes of a token's text
  init(_ tokens: [AddedToken], place: String, normalize: ([UInt8]) throws -> [UInt8]) throws {
    for token in tokens where !token.text.isEmpty {
      guard token.text.count <= Self.maximumLength else {
        throw NibbleError.badInput(
          "\(path: place): an added token of \(token.text.count) bytes; \(Self.maximumLength) is the limit")
      }
      if token.isSpecial { specialIDs.insert(token.id) }
      all.append(token)
      if token.isNormalized {
        let text = try normalize(token.text)
        if text != token.text { respelled[token.id] = text }
        try normalized.insert(text, all.count - 1, place: place)
      } else {
        try original.insert(token.text, all.count - 1, place: place)
      }
    }
  }

  /// A part of a text: a token, or text between tokens.
  enum Part {
    case token(Int)
    case text(Range<Int>)
  }

  /// Finds tokens in a text as it is, or in a normalized one.
  ///
  /// - Parameter specialAsText: whether to pass special tokens over, so that their spellings are text
  func split(_ text: [UInt8], isNormalized: Bool, specialAsText: Bool) -> [Part] {
    let trie = isNormalized ? normalized : original
    if trie.isEmpty { return text.isEmpty ? [] : [.text(0..<text.count)] }
    var parts: [Part] = []
    text.withUnsafeBufferPointer { text in
      var last = 0
      var at = 0
      while let (index, start, end) = trie.find(in: text, from: at) {
        at = end
        let token = all[index]
        if specialAsText, token.isSpecial { continue }
        if token.isSingleWord, isWord(before: start, in: text) || isWord(after: end, in: text) { continue }
        var from = start
        var to = end
        if token.stripsLeft { while from > last, let before = spaceStart(before: from, in: text) { from = max(before, last) } }
        if token.stripsRight { while let after = spaceEnd(after: to, in: text) { to = after } }
        if last < from { parts.append(.text(last..<from)) }
        parts.append(.token(token.id))
        // A token found within the white space that another took along takes its place again.
        last = to
      }
      if last < text.count { parts.append(.text(last..<text.count)) }
    }
    return parts
  }

  private func scalar(before end: Int, in text: UnsafeBufferPointer<UInt8>) -> (scalar: Unicode.Scalar, start: Int)? {
    guard end > 0 else { return nil }
    var start = end - 1
    while start > 0, text[start] & 0xC0 == 0x80 { start -= 1 }
    return scalar(after: start, in: text).map { ($0.scalar, start) }
  }

  private func scalar(after start: Int, in text: UnsafeBufferPointer<UInt8>) -> (scalar: Unicode.Scalar, end: Int)? {
    guard start < text.count else { return nil }
    let end = min(start + utf8Length(text[start]), text.count)
    return String(decoding: text[start..<end], as: UTF8.self).unicodeScalars.first.map { ($0, end) }
  }

  private func isWord(before end: Int, in text: UnsafeBufferPointer<UInt8>) -> Bool {
    scalar(before: end, in: text).map { CharacterClass.isWord($0.scalar) } ?? false
  }

  private func isWord(after start: Int, in text: UnsafeBufferPointer<UInt8>) -> Bool {
    scalar(after: start, in: text).map { CharacterClass.isWord($0.scalar) } ?? false
  }

  private func spaceStart(before end: Int, in text: UnsafeBufferPointer<UInt8>) -> Int? {
    scalar(before: end, in: text).flatMap { CharacterClass.isSpace($0.scalar) ? $0.start : nil }
  }

  private func spaceEnd(after start: Int, in text: UnsafeBufferPointer<UInt8>) -> Int? {
    scalar(after: start, in: text).flatMap { CharacterClass.isSpace($0.scalar) ? $0.end : nil }
  }
}
