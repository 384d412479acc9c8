extension ChoiceStyle {
  /// ARC: the choice itself is scored.
  static let arc = ChoiceStyle("arc", keys: ["question", "choices"]) { row in
    try asked(row, "Question: \(try row.text("question"))\nAnswer:", try row.choices())
  }

  /// OpenBookQA: the question's beginning, and what completes it.
  static let openbookqa = ChoiceStyle("openbookqa", keys: ["question_stem", "choices"]) { row in
    try asked(row, try row.text("question_stem", "question"), try row.choices())
  }

  /// PIQA: a goal and two ways to it.
  static let piqa = ChoiceStyle("piqa", keys: ["goal", "sol1", "sol2"]) { row in
    let choices = row.row["sol1"] == nil ? try row.choices() : try row.choices("sol1", "sol2")
    return try asked(row, "Question: \(try row.text("goal", "question"))\nAnswer:", choices)
  }

  /// Social IQa.
  static let siqa = ChoiceStyle("siqa", keys: ["context", "question", "answerA", "answerB", "answerC"]) { row in
    try asked(row, "Q: \(try row.text("context")) \(try row.text("question"))\nA:", try row.choices("answerA", "answerB", "answerC"), from: 1)
  }

  /// BoolQ: a passage, and whether it says so.
  static let boolq = ChoiceStyle("boolq", keys: ["passage", "question"]) { row in
    let context = "\(try row.text("passage"))\nQuestion: \(try row.text("question"))?\nAnswer:", choices = ["no", "yes"]
    let truth = (row.row["answer"] ?? row.row["label"])?.bool
    return ChoiceQuestion(
      context: context, continuations: choices.map { " " + $0 }, choices: choices,
      answer: try truth.map { $0 ? 1 : 0 } ?? row.answer(2), place: row.place)
  }

  /// Rows that say themselves what is asked: `prompt` or `context`, and `choices`.
  static let plain = ChoiceStyle("plain", keys: ["prompt", "choices"]) { row in
    try asked(row, try row.text("prompt", "context", "question"), try row.choices())
  }

  private static func asked(_ row: ChoiceRow, _ context: String, _ choices: [String], from first: Int = 0) throws -> ChoiceQuestion {
    ChoiceQuestion(
      context: context, continuations: choices.map { " " + $0 }, choices: choices, answer: try row.answer(choices.count, from: first),
      place: row.place)
  }
}
