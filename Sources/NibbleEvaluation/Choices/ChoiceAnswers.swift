import Glibc
import NibbleCore

/// What a model answers to questions with choices, and how often it is right.
public struct ChoiceAnswers: Sendable {
  /// The answer to one question.
  public struct Answer: Sendable, Equatable {
    /// A score for each choice.
    public var scores: [Continuation.Score]

    public init(_ scores: [Continuation.Score]) { self.scores = scores }

    /// The choice with the greatest log-probability; of equals the first.
    public var choice: Int { Self.best(scores.map(\.logProbability)) }

    /// The choice with the greatest log-probability divided by its length.
    public func choice(by lengths: [Int]) -> Int { Self.best(zip(scores, lengths).map { $0.logProbability / Double($1) }) }

    /// The softmax of the choices' log-probabilities.
    public var probabilities: [Double] {
      let greatest = scores.map(\.logProbability).max() ?? 0
      let powers = scores.map { exp($0.logProbability - greatest) }
      let sum = powers.reduce(0, +)
      return powers.map { $0 / sum }
    }

    static func best(_ values: [Double]) -> Int {
      var best = 0
      for (index, value) in values.enumerated() where value > values[best] { best = index }
      return best
    }
  }

  public let questions: [ChoiceQuestion]
  public let answers: [Answer]

  /// - Parameter answers: one a question
  public init(_ questions: [ChoiceQuestion], _ answers: [Answer]) { (self.questions, self.answers) = (questions, answers) }

  /// Characters of each choice: `acc_norm` divides by them.
  public static func characters(_ question: ChoiceQuestion) -> [Int] { question.choices.map { $0.unicodeScalars.count } }
  /// Bytes of each choice in UTF-8: `acc_bytes` divides by them.
  public static func bytes(_ question: ChoiceQuestion) -> [Int] { question.choices.map(\.utf8.count) }

  private func right(_ choice: (ChoiceQuestion, Answer) -> Int) -> [Double] {
    zip(questions, answers).map { choice($0, $1) == $0.answer ? 1 : 0 }
  }

  /// `acc`, `acc_norm` and `acc_bytes` as lm-evaluation-harness defines them; where questions have subjects, the mean over these too.
  ///
  /// - Throws: `.badInput` if there is no question
  public func figures() throws -> [Figure] {
    guard !questions.isEmpty else { throw NibbleError.badInput("no question was asked: there is nothing to count") }
    let plain = right { $1.choice }
    var figures = [Figure("accuracy", "acc", CorpusScore(meanOf: plain))]
    // Letters are all of one length, and what follows a gap is the same text whatever fills it.
    if questions.contains(where: { Set($0.continuations).count > 1 && (Set(Self.characters($0)).count > 1 || Set(Self.bytes($0)).count > 1) }) {
      figures += [
        Figure("accuracy by character", "acc_norm", CorpusScore(meanOf: right { $1.choice(by: Self.characters($0)) })),
        Figure("accuracy by byte", "acc_bytes", CorpusScore(meanOf: right { $1.choice(by: Self.bytes($0)) })),
      ]
    }
    let subjects = self.subjects
    if subjects.count > 1 { figures.append(Figure("mean over subjects", "acc_subjects", bySubject(plain, subjects))) }
    return figures
  }

  /// The questions' subjects, in the order of their first questions.
  public var subjects: [String] {
    var seen: Set<String> = []
    return questions.compactMap(\.subject).filter { seen.insert($0).inserted }
  }

  /// Accuracy and number of questions of each subject.
  public func table() -> [(subject: String, accuracy: Double, questions: Int)] {
    let plain = right { $1.choice }
    return subjects.map { subject in
      let own = zip(questions, plain).filter { $0.0.subject == subject }.map(\.1)
      return (subject, own.reduce(0, +) / Double(own.count), own.count)
    }
  }

  private func bySubject(_ right: [Double], _ subjects: [String]) -> CorpusScore {
    let number = Dictionary(uniqueKeysWithValues: subjects.enumerated().map { ($1, $0) })
    var sums = ItemSums(width: 2 * subjects.count)
    for (question, value) in zip(questions, right) {
      var row = Array(repeating: 0.0, count: 2 * subjects.count)
      if let own = question.subject.flatMap({ number[$0] }) { (row[2 * own], row[2 * own + 1]) = (value, 1) }
      sums.add(row)
    }
    return CorpusScore(items: right, sums) { sums in
      let shares = subjects.indices.filter { sums[2 * $0 + 1] > 0 }.map { sums[2 * $0] / sums[2 * $0 + 1] }
      return shares.isEmpty ? .nan : shares.reduce(0, +) / Double(shares.count)
    }
  }
}
