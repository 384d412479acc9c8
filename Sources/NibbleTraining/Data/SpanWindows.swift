import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTokenizers

/// Cuts questions and their contexts into windows that a model can read.
public struct SpanWindows: Sendable {
  private let tokenizer: Tokenizer
  private let (length, overlap): (Int, Int)
  /// A window's marks, with a number below 0 for question and context.
  private let layout: Encoding
  private let (first, second): (Int, Int)

  /// A question's windows, and the bytes of its context that its tokens stand for.
  public struct Cut: Sendable {
    public var windows: [SpanWindow]
    public var spans: [Range<Int>]

    /// The bytes from the first of some tokens to the last.
    public func span(_ tokens: Range<Int>) -> Range<Int> {
      guard let first = spans[tokens].first, let last = spans[tokens].last, first.lowerBound <= last.upperBound else { return 0..<0 }
      return first.lowerBound..<last.upperBound
    }

    /// Where in a window an answer's first and last token are; nil where the answer is not all in it.
    ///
    /// As transformers' example for SQuAD has it: the last token that begins no later than the answer, and the first that ends no earlier.
    func places(of answer: Range<Int>, in window: SpanWindow) -> [Int]? {
      let inside = spans[window.tokens]
      guard let first = inside.first, let last = inside.last, first.lowerBound <= answer.lowerBound, last.upperBound >= answer.upperBound,
        let begin = inside.lastIndex(where: { $0.lowerBound <= answer.lowerBound }), let end = inside.firstIndex(where: { $0.upperBound >= answer.upperBound })
      else { return nil }
      return [begin, end].map { $0 - window.tokens.lowerBound + window.first }
    }
  }

  /// - Parameters:
  ///   - length: tokens of a window; nil for 384, or what the model takes
  ///   - overlap: tokens that two windows have in common
  /// - Throws: `.usage` for more tokens than the model takes, `.badInput` for a tokenizer that does not take two texts
  public init(_ model: Model, _ tokenizer: Tokenizer, length: Int?, overlap: Int) throws {
    let context = try model.contextLength
    if let length, length > context { throw NibbleError.usage("\(.maxLength, length) is more than the model's context of \(context)") }
    (self.tokenizer, self.length, self.overlap) = (tokenizer, length ?? min(384, context), overlap)
    layout = tokenizer.addingSpecialTokens(to: [-1], pair: [-2])
    guard let first = layout.ids.firstIndex(of: -1), let second = layout.ids.firstIndex(of: -2), first < second else {
      throw NibbleError.badInput("\(path: model.path): the tokenizer has no form for two texts")
    }
    (self.first, self.second) = (first, second)
  }

  /// - Throws: `.badInput` with the question's place where the context cannot be read
  public func windows(_ question: SpanQuestion) throws -> Cut {
    // As transformers' examples: some questions of SQuAD begin with spaces.
    let text = String(question.question.drop { $0.isWhitespace })
    let asked = try tokenizer.encode(text, addSpecialTokens: false).ids
    guard let (ids, spans) = try tokenizer.located(question.context) else {
      throw NibbleError.badInput("\(path: question.place): the tokenizer changes characters of the context, so an answer cannot be found in it")
    }
    let room = length - asked.count - (layout.ids.count - 2)
    guard room > overlap else {
      throw NibbleError.badInput(
        "\(path: question.place): a question of \(asked.count) tokens leaves \(max(room, 0)) of a window's \(length) for the context, "
          + "no more than windows have in common; \(.docStride, overlap) and \(.maxLength) change that")
    }
    let windows = SpanWindow.parts(of: ids.count, room: room, overlap: overlap).map { part in
      let pair = tokenizer.addingSpecialTokens(to: asked, pair: Array(ids[part]))
      return SpanWindow(ids: pair.ids, types: pair.typeIDs, first: second - 1 + asked.count, tokens: part)
    }
    return Cut(windows: windows, spans: spans)
  }

  /// A question as rows to learn, one a window: targets are the places of the answer's first and last token; the window's first token, twice, where
  /// the answer is not all in it, or there is none.
  ///
  /// - Returns: beside the rows whether there is an answer, but all of it in none of them
  /// - Throws: `.badInput` with the question's place, also for an answer that is not where the row says
  public func rows(_ question: SpanQuestion) throws -> (rows: [TrainingRow], isLost: Bool) {
    let (cut, answer) = (try windows(question), try question.answer())
    let places = cut.windows.map { window in answer.flatMap { cut.places(of: $0, in: window) } }
    let rows = zip(cut.windows, places).map { window, places in
      let types = window.types.contains { $0 != 0 } ? window.types : nil
      return TrainingRow(window.ids, types: types, targets: (places ?? [0, 0]).map(Double.init), place: question.place)
    }
    return (rows, answer != nil && places.allSatisfy { $0 == nil })
  }
}
