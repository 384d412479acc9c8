import NibbleCore
import NibbleModels

/// Asks models questions with choices.
public struct Choices {
  public let questions: [ChoiceQuestion]
  /// Tokens of a text, with what the tokenizer puts around it.
  private let encode: (String) throws -> [Int]
  /// What is read where nothing stands before a choice.
  private let empty: Int?

  /// - Parameters:
  ///   - encode: tokens of a text, with what the tokenizer puts around it
  ///   - empty: the token that is read where nothing stands before a choice
  public init(_ questions: [ChoiceQuestion], empty: Int?, encode: @escaping (String) throws -> [Int]) {
    (self.questions, self.empty, self.encode) = (questions, empty, encode)
  }

  /// Reads questions, and solved ones that are shown before each.
  ///
  /// - Parameters:
  ///   - style: how rows are asked; nil to see it from the first row's keys
  ///   - exemplars: a file of solved questions; those of a question's own subject are shown where it has one
  ///   - shots: how many of them, the first of the file
  ///   - limit: questions at most; of each subject where they have some
  /// - Throws: `.badInput` naming file and line, also where a subject has too few solved questions
  public static func read(
    _ path: String, style named: ChoiceStyle?, exemplars: String?, shots: Int, limit: Int?
  ) throws -> (questions: [ChoiceQuestion], style: ChoiceStyle) {
    var found = named
    var counts: [String?: Int] = [:]
    func questions(_ path: String, limit: Int?) throws -> [ChoiceQuestion] {
      var all: [ChoiceQuestion] = []
      try JSONLines.forEachRow(path) { row, place in
        let style = try found ?? ChoiceStyle.of(row, place: place)
        found = style
        let question = try style.question(row, place: place)
        counts[question.subject, default: 0] += 1
        if counts[question.subject, default: 0] <= limit ?? .max { all.append(question) }
      }
      counts = [:]
      return all
    }
    let asked = try questions(path, limit: limit)
    guard let style = found, !asked.isEmpty else { throw NibbleError.badInput("\(path: path): no question in it") }
    guard shots > 0, let exemplars else { return (asked.map { $0.after([]) }, style) }
    // One more than needed: the question itself may be among them.
    let bySubject = Dictionary(grouping: try questions(exemplars, limit: shots + 1), by: \.subject)
    return (
      try asked.map { question in
        let examples = Array(
          (bySubject[question.subject] ?? []).filter { $0.contexts != question.contexts || $0.choices != question.choices }.prefix(shots))
        guard examples.count == shots else {
          let subject = question.subject.map { " about \(quoted($0))" } ?? ""
          throw NibbleError.badInput("\(path: exemplars): \(examples.count) solved questions\(subject), other than the one that is asked, where \(shots) are to be shown")
        }
        return question.after(examples)
      }, style
    )
  }

  /// Asks every question but those with numbers in `done`.
  ///
  /// - Parameters:
  ///   - onCut: called with the number of a question whose beginning does not fit the model's context and is left out, and how many tokens that are
  ///   - onAnswer: called with a question's number and its answer, in no certain order
  /// - Throws: `.badInput` naming the place of a choice that is empty or longer than the model's context
  public func ask(
    _ model: Model, adapters: [ActiveAdapter], done: Set<Int> = [], onCut: (Int, Int) -> Void = { _, _ in }, onAnswer: (Int, ChoiceAnswers.Answer) throws -> Void
  ) throws {
    let scores = try ContinuationScores(model, adapters: adapters)
    func continuations(_ number: Int) throws -> [Continuation] {
      let question = questions[number]
      return try question.contexts.indices.map { choice in
        let one = try Continuation(
          question.contexts[choice], question.continuations[choice], empty: empty, contextLength: scores.contextLength, encode: encode)
        guard !one.scored.isEmpty, one.scored.count <= one.read.count else {
          let reason: MessageText = one.scored.isEmpty ? "adds no token of its own" : "has \(one.scored.count) tokens, more than fit the model's context of \(scores.contextLength)"
          throw NibbleError.badInput("\(path: question.place): choice \(choice + 1) \(reason)")
        }
        return one
      }
    }
    let groups = parts(questions.indices.filter { !done.contains($0) })
    // What cannot be asked is said before anything is.
    if groups.count > 1 { for number in groups.joined() { _ = try continuations(number) } }
    for numbers in groups {
      let asked = try numbers.map(continuations)
      for (number, one) in zip(numbers, asked) {
        if let cut = one.map(\.cut).max(), cut > 0 { onCut(number, cut) }
      }
      try scores.run(asked) { index, scores in
        for (choice, score) in scores.enumerated() where !score.logProbability.isFinite {
          throw NibbleError.quality("\(path: questions[numbers[index]].place): the score of choice \(choice + 1) is no finite number")
        }
        try onAnswer(numbers[index], .init(scores))
      }
    }
  }

  /// Questions whose tokens are in memory at once, at most.
  private static let together = 1024

  /// Questions that are asked together: of one subject, which begin alike.
  private func parts(_ numbers: [Int]) -> [[Int]] {
    var (parts, place): ([[Int]], [String?: Int]) = ([], [:])
    for number in numbers {
      let subject = questions[number].subject
      if let known = place[subject], parts[known].count < Self.together {
        parts[known].append(number)
      } else {
        place[subject] = parts.count
        parts.append([number])
      }
    }
    return parts
  }
}
