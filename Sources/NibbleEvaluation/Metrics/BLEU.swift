import Glibc
import NibbleCore

/// BLEU of up to four words (Papineni et al., 2002), as the E2E challenge's scorer computes it: mteval-v13a's tokens in small letters,
/// for each text the reference nearest in length (of two as near, the shorter).
///
/// exp(min(0, 1 - r/c)) times the geometric mean of the precisions of 1 to 4 words, all counts summed over the corpus. A precision
/// without any match counts 1e-15 matches, so the score is then all but 0 and never undefined.
public struct BLEU: Sendable {
  /// Longest run of words.
  public static let order = 4
  /// Added to matches and runs of every length; 1 for scores of single sentences.
  public var smoothing: Double

  public init(smoothing: Double = 0) { self.smoothing = smoothing }

  /// BLEU of the corpus, from 0 to 1, and of each text alone.
  public func score(_ texts: ReferencedTexts) -> CorpusScore {
    let tokens = texts.tokens(MTEvalTokens.cut)
    var runs = NGrams()
    // Matches of each length, runs of each length, words of the nearest reference.
    var sums = ItemSums(width: 2 * Self.order + 1)
    var items: [Double] = []
    for (text, references) in zip(tokens.predictions, tokens.references) {
      let found = runs.counts(text, order: Self.order)
      let allowed = NGrams.greatest(references.map { runs.counts($0, order: Self.order) }, order: Self.order)
      var row = zip(found, allowed).map { found, allowed in
        Double(found.reduce(0) { $0 + min($1.value, allowed[$1.key] ?? 0) })
      }
      // Below 0 where a text is shorter than the run, as in the challenge's Python port; mteval's Perl script stops at 0.
      row += (0..<Self.order).map { Double(text.count - $0) }
      row.append(Double(references.map(\.count).min { (abs($0 - text.count), $0) < (abs($1 - text.count), $1) } ?? 0))
      sums.add(row)
      items.append(value(row))
    }
    return CorpusScore(items: items, sums) { value($0) }
  }

  private func value(_ sums: [Double]) -> Double {
    let (matches, lengths, reference) = (sums[..<Self.order], sums[Self.order..<2 * Self.order], sums[2 * Self.order])
    let logarithms = zip(matches, lengths).reduce(0) {
      // The port's precision may pass 1 where most texts are shorter than the run; this one does not.
      $0 + log(max($1.0 + smoothing, 1e-15) / max($1.1 + smoothing, $1.0 + smoothing, 1e-9))
    }
    let words = sums[Self.order]
    let brevity = words > reference ? 1 : exp(1 - reference / max(words, 1e-5))
    return brevity * exp(logarithms / Double(Self.order))
  }
}
