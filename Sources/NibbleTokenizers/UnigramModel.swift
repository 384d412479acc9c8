import NibbleCore

/// Unigram: of all ways to cut a text into tokens, the one whose scores have the greatest sum.
struct UnigramModel: Sendable {
  var tokens: Vocabulary
  private let scores: [Double]
  private let unknown: UInt32?
  private let unknownScore: Double
  private let byteTokens: [UInt32?]?
  private let trie: TokenTrie

  init(tokens: Vocabulary, scores: [Double], unknown: Int?, byteFallback: Bool, place: String) throws {
    self.tokens = tokens
    self.scores = scores
    self.unknown = unknown.map { UInt32($0) }
    unknownScore = (scores.min() ?? 0) - 10
    byteTokens = byteFallback ? byteTokenIDs(tokens) : nil
    var trie = TokenTrie()
    for id in tokens.ids {
      let token = tokens[id] ?? []
      guard token.count <= AddedTokens.maximumLength else {
        throw NibbleError.badInput("\(path: place): a token of \(token.count) bytes")
      }
      try trie.insert(token, id, place: place)
    }
    self.trie = trie
  }

  /// The best way to come to a place in the text.
  private struct Arrival {
    var score = 0.0
    var start = -1
    var id: UInt32 = 0
  }

  /// Appends the ids of a text.
  func encode(_ text: UnsafeBufferPointer<UInt8>, to ids: inout [UInt32]) throws {
    var arrivals = [Arrival](repeating: Arrival(), count: text.count + 1)
    func arrive(_ end: Int, from start: Int, _ id: UInt32, _ score: Double) {
      let total = arrivals[start].score + score
      if arrivals[end].start < 0 || total > arrivals[end].score { arrivals[end] = Arrival(score: total, start: start, id: id) }
    }
    var at = 0
    while at < text.count {
      let end = min(at + utf8Length(text[at]), text.count)
      var isKnown = false
      trie.forEachPrefix(of: text, from: at) { id, stop in
        arrive(stop, from: at, UInt32(id), scores[id])
        if stop == end { isKnown = true }
      }
      if !isKnown {
        guard let unknown else {
          throw NibbleError.badInput("the text has a character that no token covers, and there is no unknown token")
        }
        arrive(end, from: at, unknown, unknownScore)
      }
      at = end
    }
    var cuts: [(id: UInt32, start: Int, end: Int)] = []
    var end = text.count
    while end > 0, arrivals[end].start >= 0 {
      let arrival = arrivals[end]
      // Unknown characters that follow each other are one.
      if arrival.id == unknown, let last = cuts.last, last.id == unknown {
        cuts[cuts.count - 1].start = arrival.start
      } else {
        cuts.append((arrival.id, arrival.start, end))
      }
      end = arrival.start
    }
    for cut in cuts.reversed() {
      let part = UnsafeBufferPointer(rebasing: text[cut.start..<cut.end])
      if cut.id != unknown {
        ids.append(cut.id)
      } else if let id = tokens.id(of: part) {
        ids.append(id)
      } else if let bytes = bytes(part) {
        ids.append(contentsOf: bytes)
      } else {
        ids.append(cut.id)
      }
    }
  }

  private func bytes(_ text: UnsafeBufferPointer<UInt8>) -> [UInt32]? {
    guard let byteTokens else { return nil }
    var ids: [UInt32] = []
    for byte in text {
      guard let id = byteTokens[Int(byte)] else { return nil }
      ids.append(id)
    }
    return ids
  }
}

/// The ids of `<0x00>` … `<0xFF>`.
func byteTokenIDs(_ tokens: Vocabulary) -> [UInt32?] {
  let digits = Array("0123456789ABCDEF")
  return (0..<256).map { tokens.id(of: "<0x\(digits[$0 >> 4])\(digits[$0 & 15])>") }
}
