/// Finds the best span of a text from scores of where it begins and ends.
///
/// As transformers' examples for SQuAD do it (`postprocess_qa_predictions`): the best sum of a begin and an end among the likeliest of each window; if
/// a question may have none, no answer where the first token, which stands for it, has more than the best span.
public struct SpanSearch: Sendable, Equatable {
  /// Tokens of an answer, at most.
  public var longest: Int
  /// Begins and ends of a window that are looked at, the likeliest.
  public var candidates: Int

  public init(longest: Int = 30, candidates: Int = 20) { (self.longest, self.candidates) = (longest, candidates) }

  /// What was found in all windows of a question.
  public struct Found: Sendable, Equatable {
    /// The context's tokens that answer it; nil for no answer.
    public var tokens: Range<Int>?
    /// Of the best span, if there is one.
    public var score: Float?
    /// That there is no answer: the least of all windows.
    public var none: Float

    public init(tokens: Range<Int>?, score: Float?, none: Float) { (self.tokens, self.score, self.none) = (tokens, score, none) }
  }

  /// - Parameters:
  ///   - windows: of one question, with a score for each of their tokens
  ///   - mayBeNone: whether a question may have no answer
  ///   - isEmpty: whether tokens of the context stand for no text
  public func best(
    _ windows: [(window: SpanWindow, begins: [Float], ends: [Float])], mayBeNone: Bool, isEmpty: (Range<Int>) -> Bool = { _ in false }
  ) -> Found {
    var best: (tokens: Range<Int>, begin: Float, end: Float)?
    var none = Float.infinity
    for (window, begins, ends) in windows {
      none = min(none, (begins.first ?? 0) + (ends.first ?? 0))
      // Places in the context, the likeliest first.
      func likeliest(_ scores: [Float]) -> [Int] {
        scores.indices.sorted { (scores[$0], $0) > (scores[$1], $1) }.prefix(candidates)
          .map { $0 - window.first + window.tokens.lowerBound }.filter(window.tokens.contains)
      }
      func score(_ scores: [Float], _ token: Int) -> Float { scores[token - window.tokens.lowerBound + window.first] }
      let last = likeliest(ends)
      for begin in likeliest(begins) {
        for end in last where end >= begin && end - begin < longest {
          let (one, two) = (score(begins, begin), score(ends, end))
          if let best, best.begin + best.end >= one + two { continue }
          if mayBeNone, isEmpty(begin..<end + 1) { continue }
          best = (begin..<end + 1, one, two)
        }
      }
    }
    guard let best else { return Found(tokens: nil, score: nil, none: none) }
    let isNone = mayBeNone && none - best.begin - best.end > 0
    return Found(tokens: isNone ? nil : best.tokens, score: best.begin + best.end, none: none)
  }
}
