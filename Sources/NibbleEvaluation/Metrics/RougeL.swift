import NibbleCore

/// ROUGE-L (Lin, 2004) with beta 1.2, as the COCO caption scorer computes it: precision and recall of the longest common subsequence
/// with each reference, then the best precision and the best recall, which may be of different references.
///
/// Tokens are those of `PTBTokens`. Lin's own script takes the best F of one reference, and other values of beta.
public struct RougeL: Sendable {
  private static let beta = 1.2

  public init() {}

  /// The mean over the texts, each from 0 to 1.
  ///
  /// - Parameter tokenized: whether words are already apart, by spaces
  public func score(_ texts: ReferencedTexts, tokenized: Bool = false) -> CorpusScore {
    let tokens = texts.tokens(tokenized ? PTBTokens.spaced : PTBTokens.cut)
    return CorpusScore(
      meanOf: zip(tokens.predictions, tokens.references).map { text, references in
        // The original counts an empty text as one empty word.
        let text = text.isEmpty ? [-1] : text
        var (precision, recall) = (0.0, 0.0)
        for reference in references.map({ $0.isEmpty ? [-1] : $0 }) {
          let common = Double(Self.longestCommon(text, reference))
          precision = max(precision, common / Double(text.count))
          recall = max(recall, common / Double(reference.count))
        }
        guard precision > 0, recall > 0 else { return 0 }
        return (1 + Self.beta * Self.beta) * precision * recall / (recall + Self.beta * Self.beta * precision)
      })
  }

  /// Words of the longest common subsequence.
  static func longestCommon(_ a: [Int], _ b: [Int]) -> Int {
    var lengths = [Int](repeating: 0, count: b.count + 1)
    for word in a {
      var diagonal = 0
      for (place, other) in b.enumerated() {
        let above = lengths[place + 1]
        lengths[place + 1] = word == other ? diagonal + 1 : max(above, lengths[place])
        diagonal = above
      }
    }
    return lengths[b.count]
  }
}
