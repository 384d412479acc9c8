import Glibc
import NibbleCore

/// CIDEr-D (Vedantam et al., 2015) of up to four words, sigma 6, times 10, as the COCO caption scorer computes it (there "CIDEr").
///
/// A run weighs its count times ln(texts / texts of which a reference has it). The score of a text and a reference is, for each length
/// of run, the clipped cosine of their weights times exp(-(difference of their lengths)² / 72); means over lengths, references, texts.
/// Lengths are counted in pairs of words, as there. Tokens are those of `PTBTokens`.
public struct CIDErD: Sendable {
  private static let order = 4
  private static let sigma = 6.0

  public init() {}

  /// A text: for each length its runs in order with their weights, their norm, and how many pairs of words it has.
  private struct Weighted {
    var runs: [[(run: Int, weight: Double)]] = []
    var norms: [Double] = []
    var pairs = 0.0
  }

  /// The mean over the texts, each from 0 to 10. Weights come from all references of `texts`; of a single text every weight, and so the
  /// score, is 0.
  ///
  /// - Parameter tokenized: whether words are already apart, by spaces
  public func score(_ texts: ReferencedTexts, tokenized: Bool = false) -> CorpusScore {
    let tokens = texts.tokens(tokenized ? PTBTokens.spaced : PTBTokens.cut)
    var runs = NGrams()
    let references = tokens.references.map { $0.map { runs.counts($0, order: Self.order) } }
    let predictions = tokens.predictions.map { runs.counts($0, order: Self.order) }
    var texts = [Int](repeating: 0, count: runs.count)
    for one in references { for run in Set(one.joined().flatMap(\.keys)) { texts[run] += 1 } }

    let all = log(Double(references.count))
    func weighted(_ counts: [[Int: Int]]) -> Weighted {
      var text = Weighted()
      for counts in counts {
        let runs = counts.sorted { $0.key < $1.key }.map { (run: $0.key, weight: Double($0.value) * (all - log(Double(max(texts[$0.key], 1))))) }
        text.runs.append(runs)
        text.norms.append(runs.reduce(0) { $0 + $1.weight * $1.weight }.squareRoot())
      }
      text.pairs = Double(counts[1].values.reduce(0, +))
      return text
    }
    return CorpusScore(
      meanOf: zip(predictions, references).map { prediction, references in
        let text = weighted(prediction)
        let sum = references.reduce(0) { $0 + Self.similarity(text, weighted($1)) }
        return 10 * sum / Double(Self.order) / Double(references.count)
      })
  }

  /// The sum over lengths of the clipped cosine, with the penalty for a difference in length.
  private static func similarity(_ text: Weighted, _ reference: Weighted) -> Double {
    let apart = text.pairs - reference.pairs
    let penalty = exp(-apart * apart / (2 * sigma * sigma))
    return (0..<order).reduce(0) { sum, length in
      let norm = text.norms[length] * reference.norms[length]
      guard norm > 0 else { return sum }
      return sum + product(text.runs[length], reference.runs[length]) / norm * penalty
    }
  }

  /// The sum over common runs of min(a, b) times b; both are in order.
  private static func product(_ a: [(run: Int, weight: Double)], _ b: [(run: Int, weight: Double)]) -> Double {
    var (sum, at) = (0.0, 0)
    for (run, weight) in a {
      while at < b.count, b[at].run < run { at += 1 }
      if at < b.count, b[at].run == run { sum += min(weight, b[at].weight) * b[at].weight }
    }
    return sum
  }
}
