extension ChoiceStyle {
  /// WinoGrande: a choice fills the gap, and the rest of the sentence is scored.
  static let winogrande = ChoiceStyle("winogrande", keys: ["sentence"]) { row in
    let sentence = try row.text("sentence")
    guard let gap = sentence.unicodeScalars.firstIndex(of: "_") else { throw row.fail("'sentence' has no gap '_'") }
    let isOriginal = row.row["option1"] != nil
    let choices = isOriginal ? try row.choices("option1", "option2") : try row.choices()
    let rest = trimmed(String(sentence.unicodeScalars[gap...].dropFirst()))
    var question = ChoiceQuestion(
      context: "", continuations: choices.map { _ in " " + rest }, choices: choices, answer: try row.answer(choices.count, from: isOriginal ? 1 : 0),
      place: row.place)
    question.contexts = choices.map { String(sentence.unicodeScalars[..<gap]) + $0 }
    return question
  }
}
