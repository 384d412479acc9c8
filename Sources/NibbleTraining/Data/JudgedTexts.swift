import NibbleCore

/// What a classifier reads of a row: a text, or two that belong together.
public struct JudgedTexts: Sendable, Equatable {
  public let first: String
  public let second: String?

  /// Keys of two texts, as the sets of GLUE and others name them.
  private static let pairs = [
    ("text", "text_pair"), ("sentence1", "sentence2"), ("premise", "hypothesis"), ("question1", "question2"), ("question", "sentence"),
    ("text_a", "text_b"),
  ]

  /// - Throws: `.badInput` naming the place of a row with no text, and of texts that are none
  public init(_ row: JSON, place: String) throws {
    func fail(_ reason: MessageText) -> NibbleError { .badInput("\(path: place): \(reason)") }
    func text(_ key: String) throws -> String {
      guard let text = row[key]?.string else { throw fail("\(key: key) is no text") }
      return text
    }
    if let (one, two) = Self.pairs.first(where: { row[$0.0] != nil && row[$0.1] != nil }) {
      (first, second) = (try text(one), try text(two))
    } else {
      guard let key = ["text", "sentence"].first(where: { row[$0] != nil }) else {
        let known = Self.pairs.map { "\($0.0) and \($0.1)" }.joined(separator: "; ")
        throw fail("a row for a classifier has a text and a label, or two texts: \(known)")
      }
      (first, second) = (try text(key), nil)
    }
  }
}
