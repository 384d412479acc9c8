import NibbleCore

/// The synonym sets of WordNet 3.0 (Princeton University, 2006), looked up in its own files: `index.noun` and `noun.exc` and those of
/// verbs, adjectives and adverbs. Debian has them in `wordnet-base`.
public final class WordNet: Sendable {
  /// Where Debian puts the files.
  public static let debianFolder = "/usr/share/wordnet"

  /// Nouns, verbs, adjectives and adverbs, with the base forms of irregular ones.
  private let parts: [(words: SortedLines, exceptions: SortedLines)]
  /// Whether the files are Debian's, in which mended glosses put some sets a few bytes further on than in Princeton's.
  private let isDebian: Bool

  /// Opens the files, reading next to nothing.
  ///
  /// - Throws: `.badInput` with the first file that is not there
  public init(_ folder: String = debianFolder) throws {
    parts = try ["noun", "verb", "adj", "adv"].map {
      (try SortedLines(folder + "/index." + $0), try SortedLines(folder + "/" + $0 + ".exc"))
    }
    isDebian = parts[2].words.fields(of: "placed").contains { $0.last == "01681478" }
  }

  /// The place of a set in Princeton's files.
  private func original(_ set: Int, part: Int) -> Int {
    guard isDebian else { return set }
    switch part {
    case 1: return (613_036..<2_422_967).contains(set) ? set - 18 : set
    case 2: return set >= 1_681_478 ? set - 1 : set
    default: return set
    }
  }

  /// The sets that a word is in, as METEOR 1.5 sees them: those of the word as it is, and of its base form.
  ///
  /// METEOR tells sets apart by their place in the data file alone, so that of 282 pairs of sets of two parts of speech each is one to it.
  func synonymSets(_ word: String) -> Set<Int> { sets(word).union(baseSets(word)) }

  private func sets(_ word: String) -> Set<Int> {
    var sets: Set<Int> = []
    for (part, files) in parts.enumerated() {
      for fields in files.words.fields(of: word) {
        // lemma, part, how many sets, pointers …, the sets
        guard fields.count > 2, let count = Int(fields[2]), count > 0, count < fields.count - 2 else { continue }
        sets.formUnion(fields.suffix(count).compactMap { Int($0) }.map { original($0, part: part) })
      }
    }
    return sets
  }

  private func baseSets(_ word: String) -> Set<Int> {
    let bases = parts.flatMap { $0.exceptions.fields(of: word).flatMap { $0.dropFirst() } }
    if !bases.isEmpty { return bases.reduce(into: []) { $0.formUnion(sets($1)) } }
    if word.hasSuffix("ss") || word.utf16.count <= 2 { return sets(word) }
    for (ending, base) in Self.endings where word.hasSuffix(ending) {
      let found = sets(word.dropLast(ending.count) + base)
      if !found.isEmpty { return found }
    }
    return []
  }

  /// WordNet's rules of detachment: of nouns, of verbs, of adjectives.
  private static let endings = [
    ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y"),
    ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ("er", ""), ("est", ""), ("er", "e"), ("est", "e"),
  ]
}

/// A text file whose lines are in order of their first word, byte by byte.
private final class SortedLines: Sendable {
  private let file: MappedFile

  init(_ path: String) throws { file = try InputFile(path).map(readsAhead: false) }

  /// The words of each line that begins with `word`.
  func fields(of word: String) -> [[String]] {
    let (bytes, key) = (file.bytes, Array(word.utf8))
    guard !key.isEmpty, !key.contains(UInt8(ascii: " ")) else { return [] }
    // Lines before `low` come before the word, those from `high` on do not.
    var (low, high) = (0, bytes.count)
    while low < high {
      let middle = lineStart(low + (high - low) / 2)
      if first(middle).lexicographicallyPrecedes(key) { low = lineEnd(middle) } else { high = middle }
    }
    var found: [[String]] = []
    while low < bytes.count, first(low).elementsEqual(key) {
      let end = lineEnd(low)
      found.append(bytes[low..<end].split { $0 == 0x20 || $0 == 0x0A || $0 == 0x0D }.map { String(decoding: $0, as: UTF8.self) })
      low = end
    }
    return found
  }

  private func lineStart(_ place: Int) -> Int {
    var start = place
    while start > 0, file.bytes[start - 1] != 0x0A { start -= 1 }
    return start
  }

  /// Behind the line's end.
  private func lineEnd(_ place: Int) -> Int {
    var end = place
    while end < file.bytes.count, file.bytes[end] != 0x0A { end += 1 }
    return min(end + 1, file.bytes.count)
  }

  /// The first word of a line; empty for the licence, whose lines begin with spaces.
  private func first(_ start: Int) -> Slice<UnsafeRawBufferPointer> {
    var end = start
    while end < file.bytes.count, file.bytes[end] != 0x20, file.bytes[end] != 0x0A { end += 1 }
    return file.bytes[start..<end]
  }
}
