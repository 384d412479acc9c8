import NibbleCore

/// Byte pair encoding with a vocabulary: how words become symbols, what unknown characters become.
struct BytePairModel: Sendable {
  enum Ranks: Sendable {
    /// Pairs are listed.
    case pairs(PairTable)
    /// Two tokens merge if their bytes together are a token, and its id is the rank: tiktoken.
    case tokens
  }

  /// The tokens as the words spell them: text, or bare bytes where words are bytes.
  var tokens: Vocabulary
  var ranks: Ranks
  /// Whether a word's first symbols are its bytes; else they are its characters.
  var isOfBytes = false
  /// Whether a word that is a token is that token, whatever merging would give.
  var ignoresMerges = false
  /// The name of the unknown token, and its id where the vocabulary has it.
  var unknown: (name: String, id: UInt32?)?
  var fusesUnknown = false
  /// Ids of `<0x00>` … `<0xFF>`, for characters that are no token.
  var byteTokens: [UInt32?]?
  /// What stands before every character but a word's first.
  var prefix: [UInt8] = []
  /// What stands after a word's last character.
  var suffix: [UInt8] = []

  /// The ids of single bytes; nil where a byte is no token.
  private(set) var singles: [UInt32?] = []

  init(tokens: Vocabulary, ranks: Ranks) {
    self.tokens = tokens
    self.ranks = ranks
    singles = (UInt8.min...UInt8.max).map { tokens.id(of: [$0]) }
  }

  /// Appends the ids of a word, which is not empty.
  func encode(_ word: UnsafeBufferPointer<UInt8>, _ scratch: EncoderScratch, to ids: inout [UInt32]) throws {
    let isShort = word.count <= WordCache.maximumWord
    let key = isShort ? hash(of: word) : 0
    if isShort, scratch.cache.append(word, hash: key, to: &ids) { return }
    let start = ids.count
    if ignoresMerges, let id = tokens.id(of: word) {
      ids.append(id)
    } else {
      try split(word, &scratch.merging.symbols)
      switch ranks {
      case .pairs(let table):
        scratch.merging.merge { table[$0.id, $1.id] }
      case .tokens:
        scratch.merging.merge { left, right in
          let joined = UnsafeBufferPointer(rebasing: word[Int(left.start)..<Int(right.end)])
          return tokens.id(of: joined).map { PairTable.Merge(rank: $0, id: $0) }
        }
      }
      for symbol in scratch.merging.symbols { ids.append(symbol.id) }
    }
    if isShort { scratch.cache.set(word, hash: key, to: ids[start...]) }
  }

  private func split(_ word: UnsafeBufferPointer<UInt8>, _ symbols: inout [PairMerging.Symbol]) throws {
    symbols.removeAll(keepingCapacity: true)
    // Characters the vocabulary lacks wait here, to be one unknown token together where they fuse.
    var pending: PairMerging.Symbol?
    func add(_ id: UInt32, _ start: Int, _ end: Int) {
      symbols.append(PairMerging.Symbol(id: id, start: Int32(truncatingIfNeeded: start), end: Int32(truncatingIfNeeded: end)))
    }
    var at = 0
    while at < word.count {
      let length = isOfBytes ? 1 : min(utf8Length(word[at]), word.count - at)
      let end = at + length
      defer { at = end }
      if let id = token(word, at, end) {
        if let waiting = pending { symbols.append(waiting) }
        pending = nil
        add(id, at, end)
        continue
      }
      if let bytes = fallback(word, at, end) {
        for (index, id) in bytes.enumerated() { add(id, min(at + index, end - 1), min(at + index, end - 1) + 1) }
        continue
      }
      guard let unknown else { continue }
      guard let id = unknown.id else {
        throw NibbleError.badInput("the unknown token \(subject: unknown.name) is not in the vocabulary")
      }
      if fusesUnknown, pending != nil {
        pending?.end = Int32(truncatingIfNeeded: end)
      } else {
        if let waiting = pending { symbols.append(waiting) }
        pending = PairMerging.Symbol(
          id: id, start: Int32(truncatingIfNeeded: at), end: Int32(truncatingIfNeeded: end))
      }
    }
    if let pending { symbols.append(pending) }
  }

  private func token(_ word: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int) -> UInt32? {
    if isOfBytes { return singles[Int(word[start])] }
    if prefix.isEmpty, suffix.isEmpty || end < word.count {
      return tokens.id(of: UnsafeBufferPointer(rebasing: word[start..<end]))
    }
    return tokens.id(of: spelled(word, start, end))
  }

  private func spelled(_ word: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int) -> [UInt8] {
    (start > 0 ? prefix : []) + word[start..<end] + (end == word.count ? suffix : [])
  }

  private func fallback(_ word: UnsafeBufferPointer<UInt8>, _ start: Int, _ end: Int) -> [UInt32]? {
    guard let byteTokens else { return nil }
    var ids: [UInt32] = []
    for byte in spelled(word, start, end) {
      guard let id = byteTokens[Int(byte)] else { return nil }
      ids.append(id)
    }
    return ids
  }
}

/// Bytes of the character that starts with `lead`, in valid UTF-8.
@inline(__always)
func utf8Length(_ lead: UInt8) -> Int { lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4 }
