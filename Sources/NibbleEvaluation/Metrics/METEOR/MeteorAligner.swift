/// Which words of a text stand for which of a reference: METEOR 1.5's search (Denkowski and Lavie, 2014).
///
/// Modules in turn find all matches. Matches that no other touches are taken; for the others a beam goes through the reference from left
/// to right and keeps the partial alignments that cover most, exact matches counting double, then those of fewest chunks, then those
/// with least distance. Ties, roundings and distances are the original's own, as otherwise figures would differ.
struct MeteorAligner {
  /// A run of words of the reference and one of the text that stand for each other.
  struct Match {
    /// 0 exact, 1 stem, 2 synonym, 3 paraphrase.
    var module: Int
    var reference: Range<Int>
    var text: Range<Int>
  }

  private static let beam = 40

  /// The chosen matches, in the reference's order.
  static func align(text: Int, reference: Int, _ found: [Match]) -> [Match] {
    var search = MeteorAligner(text: text, reference: reference, found)
    return search.run()
  }

  private let textCount: Int
  private let referenceCount: Int
  /// Matches by where they begin in the reference.
  private var starting: [[Match]]
  /// Matches that no other touches.
  private var fixed: [Match?]
  private var first: Path

  private init(text: Int, reference: Int, _ found: [Match]) {
    (textCount, referenceCount) = (text, reference)
    starting = Array(repeating: [], count: reference)
    fixed = Array(repeating: nil, count: reference)
    first = Path(words: text + reference)
    var (textCover, referenceCover) = (Array(repeating: 0, count: text), Array(repeating: 0, count: reference))
    for match in found {
      starting[match.reference.lowerBound].append(match)
      for word in match.text { textCover[word] += 1 }
      for word in match.reference { referenceCover[word] += 1 }
    }
    for (start, matches) in starting.enumerated() where matches.count == 1 {
      let match = matches[0]
      guard match.reference.allSatisfy({ referenceCover[$0] == 1 }), match.text.allSatisfy({ textCover[$0] == 1 }) else { continue }
      fixed[start] = match
      first.use(match, text)
    }
  }

  private mutating func run() -> [Match] {
    var paths = [first]
    for word in 0...referenceCount {
      var next: [Path] = []
      var best = Self.ranked(paths)
      for rank in best.indices {
        if word == referenceCount {
          if best[rank].lastEnd != nil { best[rank].chunks += 1 }
          next.append(best[rank])
        } else if best[rank].isUsed(textCount + word) {
          if word < best[rank].place {
            next.append(best[rank])
          } else if let match = fixed[best[rank].place] {
            best[rank].take(match)
            best[rank].distance += abs(match.reference.lowerBound - match.text.lowerBound)
            next.append(best[rank])
          }
        } else {
          for match in starting[word] where !best[rank].isUsed(match, textCount) {
            var taken = best[rank]
            taken.use(match, textCount)
            taken.take(match)
            taken.chosen = Chosen(match, before: taken.chosen)
            // Not the path that takes the match, but those that come after.
            best[rank].distance += abs(match.reference.lowerBound - match.text.lowerBound)
            next.append(taken)
          }
          if best[rank].lastEnd != nil {
            best[rank].chunks += 1
            best[rank].lastEnd = nil
          }
          best[rank].place += 1
          next.append(best[rank])
        }
      }
      if next.isEmpty, let one = best.first { next = [one] }
      paths = next
    }
    var all = fixed.compactMap { $0 }
    var chosen = Self.ranked(paths).first?.chosen
    while let one = chosen { all.append(one.match); chosen = one.before }
    return all.sorted { $0.reference.lowerBound < $1.reference.lowerBound }
  }

  /// The best paths, as many as the beam holds; of equal ones, those that came first.
  private static func ranked(_ paths: [Path]) -> [Path] {
    guard paths.count > 1 else { return paths }
    let keys = paths.enumerated().map { (-$0.element.textCovered - $0.element.referenceCovered, $0.element.chunks, $0.element.distance, $0.offset) }
    return keys.sorted { $0 < $1 }.prefix(beam).map { paths[$0.3] }
  }

  /// Matches taken, the last one first.
  private final class Chosen {
    let match: Match
    let before: Chosen?
    init(_ match: Match, before: Chosen?) { (self.match, self.before) = (match, before) }
  }

  /// An alignment as far as it goes.
  private struct Path {
    /// A bit for each word of the text and then of the reference.
    private var used: [UInt64]
    var chosen: Chosen?
    var textCovered = 0
    var referenceCovered = 0
    var chunks = 0
    /// The next word of the reference.
    var place = 0
    /// Where the last match ends in the text, if the chunk is still open.
    var lastEnd: Int?
    var distance = 0

    init(words: Int) { used = Array(repeating: 0, count: words / 64 + 1) }

    func isUsed(_ word: Int) -> Bool { used[word / 64] >> UInt64(word % 64) & 1 == 1 }

    func isUsed(_ match: Match, _ textCount: Int) -> Bool {
      match.text.contains(where: isUsed) || match.reference.contains { isUsed(textCount + $0) }
    }

    mutating func use(_ match: Match, _ textCount: Int) {
      for word in match.text { used[word / 64] |= 1 << UInt64(word % 64) }
      for word in match.reference { used[(textCount + word) / 64] |= 1 << UInt64((textCount + word) % 64) }
    }

    mutating func take(_ match: Match) {
      // Words that are not the same count half, rounded down.
      textCovered += match.module == 0 ? match.text.count : match.text.count / 2
      referenceCovered += match.module == 0 ? match.reference.count : match.reference.count / 2
      if let lastEnd, match.text.lowerBound != lastEnd { chunks += 1 }
      place = match.reference.upperBound
      lastEnd = match.text.upperBound
    }
  }
}
