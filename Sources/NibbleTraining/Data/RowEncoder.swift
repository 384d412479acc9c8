import NibbleCore
import NibbleTemplates
import NibbleTokenizers

/// Turns rows of training data into tokens. The keys of a row tell what kind it is.
public struct RowEncoder: Sendable {
  /// What is learned from rows with a question and an answer.
  public var trainsOnPrompt = false
  /// Longer rows are cut at the end; nil for as long as the model takes.
  public var maximumLength: Int
  /// Which answers of a conversation are learned.
  public var learnedTurns = LearnedTurns.all
  /// How conversations are written out.
  public private(set) var template: ChatTemplate?
  /// The same, by a template of the model's or a file's; `template` comes before it.
  public var templates: ChatTemplates?
  /// Bytes of a long text that are tokenized at once, at least.
  var segmentSize = 1 << 20
  /// What ends an answer.
  let end: Int?
  let vocabulary: Int
  let tokenizer: Tokenizer?
  /// Of a model whose encoder reads what its decoder answers: what the decoder reads so that it is judged by labels. nil for other models.
  public var answer: (@Sendable (_ labels: [Int]) throws -> [Int])?
  /// What hides tokens of texts from models that fill masks; nil for a tokenizer without a mask.
  public var masking: TokenMasking?

  /// - Parameters:
  ///   - tokenizer: nil where rows are tokens already
  ///   - end: the token that ends a text
  ///   - vocabulary: tokens the model knows
  public init(_ tokenizer: Tokenizer?, end: Int?, vocabulary: Int, maximumLength: Int) {
    (self.tokenizer, self.end, self.vocabulary, self.maximumLength) = (tokenizer, end, vocabulary, maximumLength)
  }

  /// Writes conversations out with `template`.
  ///
  /// - Parameter breaksMarks: whether marks of the template that the tokenizer has no token for are trained on in pieces
  /// - Returns: warnings about such marks
  /// - Throws: `.usage` naming the first such mark and its pieces, unless `breaksMarks`
  public mutating func use(_ template: ChatTemplate, breaksMarks: Bool = false) throws -> [Warning] {
    self.template = template
    guard let tokenizer else { return [] }
    return try template.marks.compactMap { mark in
      let ids = try tokenizer.encode(mark, addSpecialTokens: false).ids
      guard !ids.contains(where: { tokenizer.token($0) == mark }) else { return nil }
      let pieces = ids.prefix(16).map { quoted(tokenizer.token($0) ?? "\($0)") }.joined(separator: ", ")
      let reason =
        tokenizer.id(of: mark).map { "reads \(quoted(mark)) as text, though it is token \($0): it" }
        ?? "has no token \(quoted(mark)): it"
      let isMissing = tokenizer.id(of: mark) == nil
      let advice: MessageText = isMissing ? "; \(.addTokens) adds it, \(.breakMarks) trains on the pieces" : "; \(.breakMarks) trains on the pieces"
      let found: MessageText = "\(.template, template.rawValue): the tokenizer \(reason) becomes \(pieces)"
      guard breaksMarks else { throw NibbleError.usage(found + advice) }
      return Warning(.data, found)
    }
  }

  /// Throws for tokens and labels that the model does not know.
  func check(_ ids: [Int], labels: [Int] = [], place: String) throws {
    if let bad = ids.first(where: { !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): token id \(bad) is not in the model's vocabulary of \(vocabulary)")
    }
    if let bad = labels.first(where: { $0 != TrainingRow.ignored && !(0..<vocabulary).contains($0) }) {
      throw NibbleError.badInput("\(path: place): label \(bad) is neither −100 nor in the model's vocabulary of \(vocabulary)")
    }
  }

  /// The tokenizer, for rows that are texts.
  ///
  /// - Throws: `.badInput` where the base has none
  func texts() throws -> Tokenizer {
    guard let tokenizer else { throw NibbleError.badInput("the base has no tokenizer; give rows with input_ids") }
    return tokenizer
  }

  /// The tokens of a text between those that the tokenizer puts around it, and how many were cut off.
  ///
  /// - Throws: `.badInput` for a text without tokens
  func marked(_ text: String, place: String) throws -> (ids: [Int], cut: Int) {
    guard let tokenizer else { throw NibbleError.badInput("\(path: place): the base has no tokenizer for texts") }
    var segments = segments(of: text)
    let ids = try tokenizer.encode(String(segments.next() ?? "")).ids
    guard !ids.isEmpty else { throw NibbleError.badInput("\(path: place): the row is empty") }
    let cut = try max(0, ids.count - maximumLength) + segments.reduce(0) { try $0 + tokenizer.encode(String($1), addSpecialTokens: false).ids.count }
    // What ends a text stays.
    let kept =
      cut > 0 && maximumLength > 1
      ? Array(ids.prefix(maximumLength - 1)) + [ids[ids.count - 1]] : Array(ids.prefix(maximumLength))
    return (kept, cut)
  }

  /// A text in pieces that are tokenized one by one.
  func segments(of text: String) -> TextSegments { TextSegments(text, size: max(segmentSize, 64 * min(maximumLength, 1 << 20))) }

  /// The tokens of a text; with the marks that begin one, but never what ends it.
  func encode(_ text: String, marks: Bool = true) throws -> [Int] {
    var ids = try texts().encode(text, addSpecialTokens: marks).ids
    // A prompt continues with the answer: the end token that the tokenizer adds is removed.
    if marks, let end, ids.count > 1, ids.last == end, !text.isEmpty { ids.removeLast() }
    return ids
  }
}
