import NibbleCore

/// A question about a text, of which its answer is a part.
public struct SpanQuestion: Sendable, Equatable {
  public var question: String
  public var context: String
  /// True answers; none for a question that has no answer.
  public var references: [String]
  /// The character, a Unicode scalar of the context, where the first of them begins; nil for wherever it is found first.
  public var start: Int?
  /// File and line.
  public var place: String

  public init(question: String, context: String, references: [String], start: Int? = nil, place: String) {
    (self.question, self.context, self.references, self.start, self.place) = (question, context, references, start, place)
  }

  /// The bytes of the context that the first true answer is; nil for a question that has none.
  ///
  /// - Throws: `.badInput` for an answer that is not there
  public func answer() throws -> Range<Int>? {
    guard let text = references.first else { return nil }
    let scalars = context.unicodeScalars
    guard let start else {
      guard !text.isEmpty, let found = Self.find(Array(text.utf8), in: Array(context.utf8)) else {
        throw NibbleError.badInput("\(path: place): the answer \(quoted(text)) is not in the context")
      }
      return found..<found + text.utf8.count
    }
    guard !text.isEmpty, start >= 0, let begin = scalars.index(scalars.startIndex, offsetBy: start, limitedBy: scalars.endIndex),
      scalars[begin...].starts(with: text.unicodeScalars)
    else { throw NibbleError.badInput("\(path: place): the answer \(quoted(text)) is not at character \(start) of the context, where answer_start has it") }
    let first = context.utf8.distance(from: context.startIndex, to: begin)
    return first..<first + text.utf8.count
  }

  private static func find(_ part: [UInt8], in whole: [UInt8]) -> Int? {
    guard part.count <= whole.count else { return nil }
    return (0...whole.count - part.count).first { whole[$0] == part[0] && whole[$0..<$0 + part.count].elementsEqual(part) }
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
