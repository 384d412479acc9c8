extension ChoiceStyle {
  /// MMLU: four choices under letters, and the letter is scored. Figures are by subject.
  static let mmlu = ChoiceStyle("mmlu", keys: ["subject", "question", "choices"]) { row in
    let (subject, choices) = (try row.text("subject"), try row.choices())
    guard choices.count <= 26 else { throw row.fail("\(choices.count) choices are more than there are letters") }
    let letters = choices.indices.map { String(UnicodeScalar(UInt8(65 + $0))) }
    let listed = zip(letters, choices).map { "\($0). \($1)\n" }.joined()
    var question = ChoiceQuestion(
      context: trimmed(try row.text("question")) + "\n" + listed + "Answer:", continuations: letters.map { " " + $0 }, choices: letters,
      answer: try row.answer(choices.count), subject: subject, place: row.place)
    let name = String(subject.map { $0 == "_" ? " " : $0 })
    question.preamble = "The following are multiple choice questions (with answers) about \(name).\n\n"
    return question
  }
}
