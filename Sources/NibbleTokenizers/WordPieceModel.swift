import NibbleCore

/// WordPiece: the longest token that starts a word, then the longest that goes on with it; or unknown.
struct WordPieceModel: Sendable {
  var tokens: Vocabulary
  var unknown: String
  /// What marks a token that goes on with a word: `##`.
  var prefix: [UInt8]
  /// Longer words are unknown.
  var maximumCharacters: Int
  /// No token is longer; nothing longer need be looked for.
  private let longest: Int

  init(tokens: Vocabulary, unknown: String = "[UNK]", prefix: [UInt8] = Array("##".utf8), maximumCharacters: Int = 100) {
    self.tokens = tokens
    self.unknown = unknown
    self.prefix = prefix
    self.maximumCharacters = maximumCharacters
    longest = tokens.ids.reduce(0) { max($0, tokens[$1]?.count ?? 0) }
  }

  /// Appends the ids of a word.
  func encode(_ word: UnsafeBufferPointer<UInt8>, to ids: inout [UInt32]) throws {
    let before = ids.count
    let characters = word.reduce(0) { $1 & 0xC0 == 0x80 ? $0 : $0 + 1 }
    var start = 0
    if characters <= maximumCharacters {
      while start < word.count, let (id, end) = piece(word, from: start) {
        ids.append(id)
        start = end
      }
    }
    if start == word.count { return }
    ids.removeSubrange(before...)
    guard let id = tokens.id(of: unknown) else {
      throw NibbleError.badInput("the unknown token \(subject: unknown) is not in the vocabulary")
    }
    ids.append(id)
  }

  private func piece(_ word: UnsafeBufferPointer<UInt8>, from start: Int) -> (id: UInt32, end: Int)? {
    var end = min(word.count, start + longest)
    if start > 0 {
      var spelled = prefix + word[start..<end]
      while end > start {
        if end == word.count || word[end] & 0xC0 != 0x80, let id = tokens.id(of: spelled) { return (id, end) }
        end -= 1
        spelled.removeLast()
      }
      return nil
    }
    while end > start {
      if end == word.count || word[end] & 0xC0 != 0x80,
        let id = tokens.id(of: UnsafeBufferPointer(rebasing: word[start..<end]))
      {
        return (id, end)
      }
      end -= 1
    }
    return nil
  }
}
