import Glibc
import NibbleCore

/// METEOR 1.5 for English (Denkowski and Lavie, 2014), as its own program computes it with `-l en -norm`.
///
/// Words of a text stand for words of the reference that are the same, have the same stem, share a synonym set of WordNet, or are
/// paraphrases in METEOR's table. Precision and recall weigh matches by 1, 0.6, 0.8 and 0.6, content words by 0.75 and function words by
/// 0.25. The score is P R / (0.85 P + 0.15 R) times 1 - 0.6 (chunks / matches)^0.2, a chunk being a run of matches in the same order.
/// The reference with the best score counts; over a corpus all counts are summed first.
public struct METEOR: Sendable {
  private let wordNet: WordNet?
  private let paraphrases: ParaphraseTable?

  /// - Parameters:
  ///   - wordNet: for synonyms
  ///   - paraphrases: METEOR's table
  public init(wordNet: WordNet?, paraphrases: ParaphraseTable? = nil) {
    (self.wordNet, self.paraphrases) = (wordNet, paraphrases)
  }

  /// With what there is on this machine.
  ///
  /// - Parameters:
  ///   - wordNet: the folder of WordNet's files; without one, Debian's if it is there, and no synonyms otherwise
  ///   - paraphrases: METEOR's table, unpacked; without it, no paraphrases
  /// - Throws: `.badInput` for what is named and is not there
  public init(wordNet: String?, paraphrases: String?) throws {
    let folder = wordNet ?? (PathKind(WordNet.debianFolder) == .folder ? WordNet.debianFolder : nil)
    self.init(wordNet: try folder.map { try WordNet($0) }, paraphrases: try paraphrases.map { try ParaphraseTable($0) })
  }

  /// The figure's key in JSON: `meteor` only with everything that METEOR 1.5 uses, else with what is used, as in
  /// `meteor_exact_stem_synonym`.
  public var key: String {
    if wordNet != nil, paraphrases != nil { return "meteor" }
    return "meteor_exact_stem" + (wordNet == nil ? "" : "_synonym") + (paraphrases == nil ? "" : "_paraphrase")
  }

  /// The figure's name in a report.
  public var label: String {
    let missing = [wordNet == nil ? "synonyms" : nil, paraphrases == nil ? "paraphrases" : nil].compactMap { $0 }
    return missing.isEmpty ? "METEOR" : "METEOR without " + missing.joined(separator: " and ")
  }

  /// From 0 to 1, of the corpus and of each text alone.
  ///
  /// - Throws: `.badInput` if the table of paraphrases cannot be read
  public func score(_ texts: ReferencedTexts) throws -> CorpusScore {
    var words = Words()
    let predictions = texts.predictions.map { words.numbers(MeteorWords.cut($0)) }
    let references = texts.references.map { $0.map { words.numbers(MeteorWords.cut($0)) } }
    words.know(wordNet)
    let phrases = try paraphrases?.read(words.numbers) ?? [:]
    let longest = phrases.keys.reduce(0) { max($0, $1.count) }

    var sums = ItemSums(width: Counts.width)
    var items: [Double] = []
    for (text, references) in zip(predictions, references) {
      var (best, bestScore) = ([Double](), -1.0)
      for reference in references {
        let counts = Counts(text, reference, words.matches(text, reference, phrases, longest), words).row
        let score = Self.value(counts)
        if score > bestScore { (best, bestScore) = (counts, score) }
      }
      sums.add(best)
      items.append(bestScore)
    }
    return CorpusScore(items: items, sums) { Self.value($0) }
  }

  private static let (alpha, beta, gamma, delta) = (0.85, 0.2, 0.6, 0.75)
  private static let weights = [1.0, 0.6, 0.8, 0.6]

  static func value(_ sums: [Double]) -> Double {
    let counts = Counts(row: sums)
    func share(_ side: KeyPath<Counts, Counts.Side>) -> Double {
      let own = counts[keyPath: side]
      let length = delta * (own.words - own.functionWords) + (1 - delta) * own.functionWords
      let matched = zip(weights, own.matches).reduce(0) { $0 + $1.0 * (delta * $1.1.content + (1 - delta) * $1.1.function) }
      return matched / length
    }
    let (precision, recall) = (share(\.text), share(\.reference))
    let mean = 1 / ((1 - alpha) / precision + alpha / recall)
    let fragmentation = counts.chunks / ((counts.text.matched + counts.reference.matched) / 2)
    let score = mean * (1 - gamma * pow(fragmentation, beta))
    return score > 0 ? score : 0
  }

  /// What a score is computed from; sums over texts, for a corpus.
  struct Counts {
    struct Side {
      var words = 0.0
      var functionWords = 0.0
      /// By module.
      var matches = [(content: Double, function: Double)](repeating: (0, 0), count: 4)
      var matched: Double { matches.reduce(0) { $0 + $1.content + $1.function } }
    }

    static let width = 21
    var text = Side()
    var reference = Side()
    var chunks = 0.0

    init(_ text: [Int], _ reference: [Int], _ matches: [MeteorAligner.Match], _ words: Words) {
      func side(_ all: [Int], _ ranges: [(Int, Range<Int>)]) -> Side {
        var side = Side()
        side.words = Double(all.count)
        side.functionWords = Double(all.count { words.isFunction($0) })
        for (module, range) in ranges {
          for place in range {
            if words.isFunction(all[place]) { side.matches[module].function += 1 } else { side.matches[module].content += 1 }
          }
        }
        return side
      }
      self.text = side(text, matches.map { ($0.module, $0.text) })
      self.reference = side(reference, matches.map { ($0.module, $0.reference) })
      var last: MeteorAligner.Match?
      for match in matches {
        if last?.text.upperBound != match.text.lowerBound || last?.reference.upperBound != match.reference.lowerBound { chunks += 1 }
        last = match
      }
      // A text that is the reference has no chunks to be counted.
      if chunks == 1, self.text.matched == self.text.words, self.reference.matched == self.reference.words { chunks = 0 }
    }

    init(row: [Double]) {
      func side(_ first: Int) -> Side {
        Side(words: row[first], functionWords: row[first + 1], matches: (0..<4).map { (row[first + 2 + 2 * $0], row[first + 3 + 2 * $0]) })
      }
      (text, reference, chunks) = (side(0), side(10), row[20])
    }

    var row: [Double] {
      func row(_ side: Side) -> [Double] { [side.words, side.functionWords] + side.matches.flatMap { [$0.content, $0.function] } }
      return row(text) + row(reference) + [chunks]
    }
  }
}

extension METEOR {
  /// The words of all texts by number, and what the modules know of each.
  struct Words {
    private(set) var numbers: [ByteName: Int] = [:]
    private var functions: [Bool] = []
    private var stems: [Int] = []
    private var sets: [Set<Int>] = []

    mutating func numbers(_ words: [String]) -> [Int] { words.map { own(ByteName($0)) } }

    private mutating func own(_ word: ByteName) -> Int {
      let next = numbers.count
      return numbers.own(word, orNew: next)
    }

    /// Looks all words up.
    mutating func know(_ wordNet: WordNet?) {
      let words = numbers.sorted { $0.value < $1.value }.map(\.key.text)
      functions = words.map { MeteorWords.functionWords.contains($0) }
      var known: [ByteName: Int] = [:]
      for word in words {
        let next = known.count
        stems.append(known.own(ByteName(EnglishStemmer.stem(word)), orNew: next))
      }
      sets = words.map { wordNet?.synonymSets($0) ?? [] }
    }

    func isFunction(_ word: Int) -> Bool { functions[word] }

    /// The best alignment of two texts.
    func matches(_ text: [Int], _ reference: [Int], _ phrases: [[Int]: [[Int]]], _ longest: Int) -> [MeteorAligner.Match] {
      var found: [MeteorAligner.Match] = []
      func pairs(_ module: Int, _ match: (Int, Int) -> Bool) {
        for (place, word) in reference.enumerated() {
          for (other, own) in text.enumerated() where match(own, word) {
            found.append(.init(module: module, reference: place..<place + 1, text: other..<other + 1))
          }
        }
      }
      pairs(0, ==)
      // Of equal texts, no more: the search could lose its way.
      if text != reference {
        pairs(1) { $0 != $1 && stems[$0] == stems[$1] }
        pairs(2) { $0 != $1 && !sets[$0].isDisjoint(with: sets[$1]) }
        Self.phrases(reference, text, phrases, longest) { found.append(.init(module: 3, reference: $0, text: $1)) }
        Self.phrases(text, reference, phrases, longest) { found.append(.init(module: 3, reference: $1, text: $0)) }
      }
      return MeteorAligner.align(text: text.count, reference: reference.count, found)
    }

    /// Phrases of one text whose paraphrases are in the other.
    private static func phrases(
      _ one: [Int], _ other: [Int], _ table: [[Int]: [[Int]]], _ longest: Int, _ found: (Range<Int>, Range<Int>) -> Void
    ) {
      guard longest > 0 else { return }
      for start in one.indices {
        for end in start + 1..<min(start + longest, one.count) + 1 {
          for paraphrase in table[Array(one[start..<end])] ?? [] {
            for place in other.indices where other[place...].starts(with: paraphrase) {
              found(start..<end, place..<place + paraphrase.count)
            }
          }
        }
      }
    }
  }
}
