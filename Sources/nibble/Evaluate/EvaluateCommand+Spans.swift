import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTraining

extension EvaluateCommand {
  /// Answers to questions about a text: marked in it by a head for that, else written.
  func judgeQuestions(_ started: Double) throws {
    let open = try OpenModel(model, common), task = QaTask()
    guard open.model.marksSpans else {
      common.warnIgnored(["--doc-stride", "--max-answer-length", "--max-length"], "the model writes its answers")
      return try judgeAnswers(task, started, open)
    }
    common.warnIgnored(
      ["--few-shot", "--exemplars", "--prompt-format", "--chat", "--max-new-tokens", "--num-beams", "--length-penalty", "--no-repeat-ngram-size", "--stop"],
      "the model marks answers in the text")
    let questions = try task.questions(data, limit: asking.limit)
    let other = try compareTo.map { try OpenModel(model.replaced($0, adapters: compareAdapter), common) }
    let items = questions.map { AnswerItem(prompt: $0.question, references: $0.references, place: $0.place) }
    let journal = try journal([
      ("max_length", JSON(maxLength ?? 0)), ("doc_stride", JSON(asking.docStride)), ("max_answer_length", JSON(asking.maxAnswerLength)),
    ])
    let figures = try task.figures(items, try mark(questions, open.model, open.all(), journal))
    let others = try other.map { other in
      guard !other.model.marksSpans else { return try task.figures(items, try mark(questions, other.model, other.all(), nil)) }
      let prompts = try self.items(task, PromptFormat(asking.promptFormat ?? task.format))
      return try task.figures(items, try write(prompts, other.model, other.all(), asking.search(task.search), nil))
    }
    Progress.clear()
    try journal?.publish()
    try print(
      FigureReport(figures: figures, others: others ?? [], other: [compareTo ?? ""] + compareAdapter), started,
      facts: [("questions", "questions", JSON(items.count))])
  }

  /// What the head marks of each context.
  func mark(_ questions: [SpanQuestion], _ model: Model, _ adapters: [ActiveAdapter], _ journal: AnswerJournal?) throws -> [String] {
    let windows = try SpanWindows(model, ModelTokenizer(model, path: tokenizer).tokenizer, length: maxLength, overlap: asking.docStride)
    let (reader, search) = (SpanReader(model, adapters: adapters), SpanSearch(longest: asking.maxAnswerLength))
    let mayBeNone = questions.contains { $0.references.isEmpty }
    let progress = common.progress("evaluate", unit: "questions")
    return try questions.enumerated().map { number, question in
      if let known = journal?.rows[number]?["prediction"]?.string { return known }
      let read = try windows.windows(question)
      let found = search.best(try reader.scores(read.windows), mayBeNone: mayBeNone) { read.span($0).isEmpty }
      let answer = String(decoding: Array(question.context.utf8)[found.tokens.map(read.span) ?? 0..<0], as: UTF8.self)
      var row: [(key: String, value: JSON)] = [
        ("row", JSON(number)), ("place", JSON(question.place)), ("text", JSON(question.question)), ("references", JSON(question.references)),
        ("prediction", JSON(answer)), ("windows", JSON(read.windows.count)),
      ]
      if let score = found.score { row.append(("score", JSON(Double(score)))) }
      try journal?.add(number, .object(row + [("score_of_none", JSON(Double(found.none)))]))
      progress(number + 1, questions.count)
      return answer
    }
  }
}
