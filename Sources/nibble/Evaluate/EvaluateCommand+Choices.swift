import NibbleCore
import NibbleEvaluation
import NibbleModels

extension EvaluateCommand {
  /// Which of the choices a model finds likeliest.
  func askChoices(_ started: Double) throws {
    let read = try choiceQuestions()
    let open = try OpenModel(model, common), questions = read.questions
    let other = try compareTo.map { try OpenModel(model.replaced($0, adapters: compareAdapter), common) }
    let journal = try journal([("style", JSON(read.style.name)), ("few_shot", JSON(asking.fewShot))])
    let answers = try ask(questions, open.model, open.all(), journal)
    let found = ChoiceAnswers(questions, answers)
    let others = try other.map { ChoiceAnswers(questions, try ask(questions, $0.model, $0.all(), nil)) }
    Progress.clear()
    let report = FigureReport(figures: try found.figures(), others: try others?.figures() ?? [], other: [compareTo ?? ""] + compareAdapter)
    try journal?.publish()
    try print(
      report, started, facts: [("style", "style", JSON(read.style.name)), ("shots", "few_shot", JSON(asking.fewShot)), ("questions", "questions", JSON(questions.count))],
      table: found.table().map { ($0.subject, $0.accuracy, $0.questions) })
  }

  /// The questions of the data.
  func choiceQuestions() throws -> (questions: [ChoiceQuestion], style: ChoiceStyle) {
    if asking.fewShot > 0 { _ = try asking.solved() }
    return try Choices.read(data, style: asking.questionStyle, exemplars: asking.exemplars, shots: asking.fewShot, limit: asking.limit)
  }

  /// Classes by their words, and rows that ask for them.
  func labelQuestions() throws -> (LabelWords, [ChoiceQuestion]) {
    let labels = try LabelWords(try asking.labels(), PromptFormat(asking.promptFormat ?? LabelWords.format))
    var questions = try labels.questions(data, limit: asking.limit)
    if asking.fewShot > 0 {
      let exemplars = try asking.solved()
      let solved = try labels.questions(exemplars, limit: asking.fewShot)
      guard solved.count == asking.fewShot else {
        throw NibbleError.badInput("\(path: exemplars): \(solved.count) solved rows where \(asking.fewShot) are to be shown")
      }
      questions = questions.map { $0.after(solved) }
    }
    return (labels, questions)
  }

  /// Classes by their words, of a model without a head for them.
  func chooseLabels(_ open: OpenModel, _ started: Double) throws {
    let (labels, questions) = try labelQuestions()
    let format = asking.promptFormat ?? LabelWords.format
    let journal = try journal([("labels", JSON(labels.words)), ("prompt_format", JSON(format)), ("few_shot", JSON(asking.fewShot))])
    let found = ChoiceAnswers(questions, try ask(questions, open.model, open.all(), journal))
    let others = try compareTo.map { path in
      let other = try OpenModel(model.replaced(path, adapters: compareAdapter), common)
      return ChoiceAnswers(questions, try ask(questions, other.model, other.all(), nil))
    }
    Progress.clear()
    try journal?.publish()
    try print(
      FigureReport(figures: try labels.figures(found), others: try others.map(labels.figures) ?? [], other: [compareTo ?? ""] + compareAdapter),
      started, facts: [("classes", "labels", JSON(labels.words)), ("rows", "rows", JSON(questions.count))])
  }

  /// What a model says to each question.
  func ask(
    _ questions: [ChoiceQuestion], _ model: Model, _ adapters: [ActiveAdapter], _ journal: AnswerJournal?
  ) throws -> [ChoiceAnswers.Answer] {
    let tokens = try ModelTokenizer(model, path: tokenizer)
    let choices = Choices(questions, empty: tokens.mark ?? tokens.end) { text in
      try tokens.tokenizer.encode(text).ids
    }
    var answers: [ChoiceAnswers.Answer?] = questions.indices.map { number in
      journal?.rows[number].flatMap { ChoiceAnswers.Answer($0, choices: questions[number].choices.count) }
    }
    let done = Set(answers.indices.filter { answers[$0] != nil })
    let progress = common.progress("evaluate", unit: "questions")
    var count = done.count
    var cut: [Int] = []
    try choices.ask(model, adapters: adapters, done: done, onCut: { number, _ in cut.append(number) }) { number, answer in
      answers[number] = answer
      try journal?.add(number, .object([("row", JSON(number))] + questions[number].told(answer)))
      count += 1
      progress(count, questions.count)
    }
    if let first = cut.min() {
      let context = try model.contextLength
      common.warn([
        Warning(.data, "\(cut.count) of \(questions.count) questions do not fit the model's context of \(context) tokens: their beginnings were left out, that of \(path: questions[first].place) the first")
      ])
    }
    return answers.compactMap { $0 }
  }
}

extension ChoiceAnswers.Answer {
  /// As a journal has it; nil for a row that is none.
  init?(_ row: JSON, choices: Int) {
    guard let numbers = row["log_probabilities"]?.array?.map(\.double), numbers.count == choices, !numbers.contains(nil),
      let greedy = row["greedy"]?.array?.map(\.bool), greedy.count == choices
    else { return nil }
    self.init(zip(numbers, greedy).map { .init(logProbability: $0 ?? 0, isGreedy: $1 ?? false) })
  }
}

extension ChoiceQuestion {
  /// The question and its answer as a row of `--predictions`.
  func told(_ answer: ChoiceAnswers.Answer) -> [(key: String, value: JSON)] {
    var row: [(key: String, value: JSON)] = [("place", JSON(place))]
    if let subject { row.append(("subject", JSON(subject))) }
    return row + [
      ("text", JSON(contexts[0])), ("choices", JSON(choices)), ("answer", JSON(self.answer)), ("prediction", JSON(answer.choice)),
      ("prediction_norm", JSON(answer.choice(by: ChoiceAnswers.characters(self)))), ("log_probabilities", .array(answer.scores.map { JSON($0.logProbability) })),
      ("greedy", .array(answer.scores.map { .bool($0.isGreedy) })), ("probabilities", .array(answer.probabilities.map { JSON($0) })),
    ]
  }
}
