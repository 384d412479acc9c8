/// A question with choices, as a model is asked: which choice is the likeliest to follow?
public struct ChoiceQuestion: Sendable, Equatable {
  /// What stands before each choice's continuation: the same for all, but where a choice fills a gap in the text.
  public var contexts: [String]
  /// What is scored, one a choice.
  public var continuations: [String]
  /// The choices as the data have them, whose lengths scores are divided by.
  public var choices: [String]
  /// Which of them is right.
  public var answer: Int
  /// What the question belongs to, where figures are given by subject.
  public var subject: String?
  /// What stands before examples and question.
  public var preamble = ""
  /// File and line.
  public var place: String

  public init(context: String, continuations: [String], choices: [String], answer: Int, subject: String? = nil, place: String) {
    contexts = choices.map { _ in context }
    (self.continuations, self.choices, self.answer, self.subject, self.place) = (continuations, choices, answer, subject, place)
  }

  /// The question with its right answer, as an example shows it.
  var solved: String { contexts[answer] + continuations[answer] }

  /// The same with solved questions before it.
  ///
  /// - Parameter examples: in the order they are shown
  public func after(_ examples: [ChoiceQuestion]) -> ChoiceQuestion {
    var asked = self
    let before = preamble + examples.map { $0.solved + "\n\n" }.joined()
    // Choices mostly share one text, which is then there once.
    if let first = contexts.first, contexts.allSatisfy({ $0 == first }) {
      let text = before + first
      asked.contexts = contexts.map { _ in text }
    } else {
      asked.contexts = contexts.map { before + $0 }
    }
    return asked
  }
}
