import NibbleCore

/// Exact match and F1 of short answers, as SQuAD's official scorer computes them (Rajpurkar et al., 2016 and 2018).
///
/// Answers are compared in small letters, without ASCII punctuation and the words a, an and the, white space being one space. The best
/// of several true answers counts. A question that has none, or only empty ones, is unanswerable (SQuAD 2.0): right is an empty answer.
public struct QuestionAnswers: Sendable {
  /// 1 where the answer is a true one, word for word, else 0; the mean is the figure.
  public let exactMatch: CorpusScore
  /// The harmonic mean of the shares of words in common, for each answer; the mean is the figure.
  public let f1: CorpusScore

  /// - Throws: `.badInput` for no answers, and for counts that differ
  public init(_ predictions: [String], answers: [[String]]) throws {
    guard predictions.count == answers.count else {
      throw NibbleError.badInput("\(predictions.count) answers, but true ones for \(answers.count) questions")
    }
    guard !predictions.isEmpty else { throw NibbleError.badInput("there are no answers to score") }
    var (exact, f1): ([Double], [Double]) = ([], [])
    for (prediction, answers) in zip(predictions, answers) {
      let found = Self.words(prediction)
      // As the scorer of SQuAD 2.0, which drops answers that are nothing.
      let named = answers.map(Self.words).filter { !$0.isEmpty }
      let wanted = named.isEmpty ? [[]] : named
      exact.append(wanted.contains(found) ? 1 : 0)
      f1.append(wanted.map { Self.f1(found, $0) }.max() ?? 0)
    }
    exactMatch = CorpusScore(meanOf: exact)
    self.f1 = CorpusScore(meanOf: f1)
  }

  /// The words of an answer that are compared.
  static func words(_ answer: String) -> [ByteName] {
    var text = ScalarText(answer.lowercased())
    text.replace({ $0.isASCIIPunctuation }) { _ in [] }
    // An article is one where no letter, digit or underscore touches it; other characters may, and then fall away with it.
    text.rewrite { scalars, at in
      guard at == 0 || !scalars[at - 1].isWordCharacter else { return nil }
      for article in ["the", "an", "a"] where scalars[at...].starts(with: article.unicodeScalars) {
        let end = at + article.unicodeScalars.count
        if end == scalars.count || !scalars[end].isWordCharacter { return (end - at, [" "]) }
      }
      return nil
    }
    return text.words(between: \.isPythonSpace).map { ByteName($0) }
  }

  static func f1(_ found: [ByteName], _ wanted: [ByteName]) -> Double {
    guard !found.isEmpty, !wanted.isEmpty else { return found.isEmpty == wanted.isEmpty ? 1 : 0 }
    var left = wanted.reduce(into: [:]) { $0[$1, default: 0] += 1 }
    var common = 0
    for word in found where left[word, default: 0] > 0 {
      left[word, default: 0] -= 1
      common += 1
    }
    return common == 0 ? 0 : 2 * Double(common) / Double(found.count + wanted.count)
  }
}

extension Unicode.Scalar {
  /// Python's `string.punctuation`.
  var isASCIIPunctuation: Bool {
    switch self {
    case "!"..."/", ":"..."@", "["..."`", "{"..."~": true
    default: false
    }
  }

  /// What Python's `\b` and `\w` take for part of a word: letters, digits and numerals of any script, and the underscore.
  var isWordCharacter: Bool {
    if self == "_" { return true }
    switch properties.generalCategory {
    case .uppercaseLetter, .lowercaseLetter, .titlecaseLetter, .modifierLetter, .otherLetter: return true
    case .decimalNumber, .letterNumber: return true
    case .otherNumber: return properties.numericType != nil
    default: return false
    }
  }
}
