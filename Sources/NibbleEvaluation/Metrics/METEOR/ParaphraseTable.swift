import NibbleCore

/// METEOR's table of paraphrases, as a user has it: `data/paraphrase-en` of the METEOR distribution, unpacked.
///
/// Three lines a paraphrase: its probability (not used), a phrase, and what can stand for it.
public struct ParaphraseTable: Sendable {
  public let path: String

  /// - Throws: `.badInput` if there is no such file, or if it is still packed
  public init(_ path: String) throws {
    let file = try InputFile(path)
    if file.size > 1, try file.bytes(at: 0, count: 2) == [0x1F, 0x8B] {
      throw NibbleError.badInput("\(path: path): packed with gzip; unpack it first: gunzip -k \(path: path)")
    }
    self.path = path
  }

  /// The paraphrases of which every word is one of `numbers`, by the phrase they stand for, in the table's order.
  ///
  /// - Throws: `.badInput` if the file cannot be read, or ends within a paraphrase
  func read(_ numbers: [ByteName: Int]) throws -> [[Int]: [[Int]]] {
    let file = try InputFile(path).map()
    let bytes = file.bytes
    var known: [Int: [(word: [UInt8], number: Int)]] = [:]
    for (word, number) in numbers { known[Self.hash(word.text.utf8), default: []].append((Array(word.text.utf8), number)) }
    func number(_ word: Slice<UnsafeRawBufferPointer>) -> Int? {
      known[Self.hash(word)]?.first { $0.word.elementsEqual(word) }?.number
    }
    var place = 0
    func line() -> Range<Int>? {
      guard place < bytes.count else { return nil }
      let start = place
      while place < bytes.count, bytes[place] != 0x0A { place += 1 }
      defer { place += 1 }
      return start..<place
    }
    /// Nil where a word is not known.
    func phrase(_ line: Range<Int>) -> [Int]? {
      var words: [Int] = []
      var at = line.lowerBound
      while at < line.upperBound {
        if bytes[at] <= 0x20 { at += 1; continue }
        let start = at
        while at < line.upperBound, bytes[at] > 0x20 { at += 1 }
        guard let own = number(bytes[start..<at]) else { return nil }
        words.append(own)
      }
      return words
    }
    var table: [[Int]: [[Int]]] = [:]
    while line() != nil {
      guard let from = line(), let to = line() else {
        throw NibbleError.badInput("\(path: path): ends within a paraphrase; each has three lines")
      }
      guard let phraseWords = phrase(from), !phraseWords.isEmpty, let paraphrase = phrase(to), !paraphrase.isEmpty else { continue }
      table[phraseWords, default: []].append(paraphrase)
    }
    return table
  }

  /// FNV-1a.
  private static func hash(_ bytes: some Sequence<UInt8>) -> Int {
    Int(truncatingIfNeeded: bytes.reduce(0xCBF2_9CE4_8422_2325 as UInt64) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 })
  }
}
