/// A question about a text, of which its answer is a part.
public struct SpanQuestion: Sendable, Equatable {
  public var question: String
  public var context: String
  /// True answers; none for a question that has no answer.
  public var references: [String]
  /// File and line.
  public var place: String

  public init(question: String, context: String, references: [String], place: String) {
    (self.question, self.context, self.references, self.place) = (question, context, references, place)
  }
}

/// A question and a part of its context, as a model reads them.
public struct SpanWindow: Sendable, Equatable {
  public var ids: [Int]
  /// The segment of each token.
  public var types: [Int]
  /// Where the context's part begins in `ids`.
  public var first: Int
  /// Which of the context's tokens it is.
  public var tokens: Range<Int>

  public init(ids: [Int], types: [Int], first: Int, tokens: Range<Int>) { (self.ids, self.types, self.first, self.tokens) = (ids, types, first, tokens) }

  /// The parts that a context is read in: each as long as fits, and so many tokens of it in common with the next.
  ///
  /// - Parameters:
  ///   - count: tokens of the context
  ///   - room: tokens of it that fit in a window, more than `overlap`
  public static func parts(of count: Int, room: Int, overlap: Int) -> [Range<Int>] {
    var (parts, start): ([Range<Int>], Int) = ([], 0)
    repeat {
      parts.append(start..<min(start + room, count))
      start += max(1, room - overlap)
    } while (parts.last?.upperBound ?? count) < count
    return parts
  }
}
