/// Runs of words, each run having a number of its own.
///
/// A run's number is looked up by the number of the run without its last word and that word, so that no run is ever hashed whole.
struct NGrams {
  private struct Step: Hashable {
    let prefix: Int, word: Int
  }

  private var numbers: [Step: Int] = [:]
  /// The number of the run without its last word, by number; that of the empty run, 0, is itself.
  private(set) var prefixes = [0]

  /// Numbers known: 0 is the empty run.
  var count: Int { prefixes.count }

  /// How often each run of 1, 2, … up to `order` words is in `words`, a dictionary for each length.
  mutating func counts(_ words: [Int], order: Int) -> [[Int: Int]] {
    var counts: [[Int: Int]] = Array(repeating: [:], count: order)
    for start in words.indices {
      var run = 0
      for length in 0..<min(order, words.count - start) {
        run = number(run, words[start + length])
        counts[length][run, default: 0] += 1
      }
    }
    return counts
  }

  private mutating func number(_ prefix: Int, _ word: Int) -> Int {
    let step = Step(prefix: prefix, word: word)
    if let known = numbers[step] { return known }
    let new = prefixes.count
    numbers[step] = new
    prefixes.append(prefix)
    return new
  }

  /// For each length, how often each run is in the one of `texts` that has it most often.
  static func greatest(_ texts: [[[Int: Int]]], order: Int) -> [[Int: Int]] {
    (0..<order).map { length in
      texts.reduce(into: [:]) { greatest, text in greatest.merge(text[length], uniquingKeysWith: max) }
    }
  }
}
