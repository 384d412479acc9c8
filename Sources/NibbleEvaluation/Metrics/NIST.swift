import Glibc
import NibbleCore

/// NIST of up to five words (Doddington, 2002), as the E2E challenge's Python scorer computes it, on the tokens of `BLEU`.
///
/// A matched run counts its information, log2 of how often the references have the run without its last word over how often they have
/// the run; the sum of each length is divided by the number of runs. The penalty for shortness is exp(-beta ln²(words / mean reference
/// words)), 0.5 at two thirds. mteval's Perl script weighs references otherwise where texts have unequally many.
public struct NIST: Sendable {
  /// Longest run of words.
  public static let order = 5
  private static let beta = -log(0.5) / (log(1.5) * log(1.5))

  public init() {}

  /// NIST of the corpus, from 0 without an upper bound, and of each text alone, where information comes from its own references.
  ///
  /// The corpus' information comes from all references of `texts`, when items are drawn again too.
  public func score(_ texts: ReferencedTexts) -> CorpusScore {
    let tokens = texts.tokens(MTEvalTokens.cut)
    var runs = NGrams()
    let references = tokens.references.map { $0.map { runs.counts($0, order: Self.order) } }
    let predictions = tokens.predictions.map { runs.counts($0, order: Self.order) }
    let seen = Self.seen(references.joined(), words: tokens.references.joined())

    // Information matched by length, runs by length, mean words of the references.
    var sums = ItemSums(width: 2 * Self.order + 1)
    var items: [Double] = []
    for item in 0..<texts.count {
      let allowed = NGrams.greatest(references[item], order: Self.order)
      func information(_ seen: [Int: Int]) -> [Double] {
        zip(predictions[item], allowed).map { found, allowed in
          // In the order of the runs' numbers, so that the sum is the same every time.
          found.sorted { $0.key < $1.key }.reduce(0) { sum, one in
            let matched = min(one.value, allowed[one.key] ?? 0)
            guard matched > 0, let prefix = seen[runs.prefixes[one.key]], let run = seen[one.key] else { return sum }
            return sum + Double(matched) * log2(Double(prefix) / Double(run))
          }
        }
      }
      let words = tokens.references[item].reduce(0) { $0 + $1.count }
      let rest = (0..<Self.order).map { Double(tokens.predictions[item].count - $0) } + [Double(words) / Double(references[item].count)]
      sums.add(information(seen) + rest)
      items.append(Self.value(information(Self.seen(references[item], words: tokens.references[item])) + rest))
    }
    return CorpusScore(items: items, sums) { Self.value($0) }
  }

  /// How often references have each run; the empty one is at each of their words.
  private static func seen(_ references: some Sequence<[[Int: Int]]>, words: some Sequence<[Int]>) -> [Int: Int] {
    var seen = [0: words.reduce(0) { $0 + $1.count }]
    for counts in references { for counts in counts { seen.merge(counts, uniquingKeysWith: +) } }
    return seen
  }

  private static func value(_ sums: [Double]) -> Double {
    var information = 0.0
    // mteval divides by at least 1; where there are no runs, there are no matches either.
    for length in 0..<order { information += sums[length] / max(sums[order + length], 1) }
    let ratio = sums[order] / sums[2 * order]
    guard ratio < 1 else { return information }
    return information * exp(-beta * log(ratio) * log(ratio))
  }
}
