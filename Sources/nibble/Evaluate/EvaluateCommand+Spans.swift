import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTokenizers

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
    let figures = try task.figures(items, try mark(questions, open, journal))
    let others = try other.map { other in
      guard !other.model.marksSpans else { return try task.figures(items, try mark(questions, other, nil)) }
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
  private func mark(_ questions: [SpanQuestion], _ open: OpenModel, _ journal: AnswerJournal?) throws -> [String] {
    let windows = try SpanWindows(open.model, ModelTokenizer(open.model, path: tokenizer).tokenizer, length: maxLength, overlap: asking.docStride)
    let (reader, search) = (SpanReader(open.model, adapters: try open.all()), SpanSearch(longest: asking.maxAnswerLength))
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

/// Cuts questions and their contexts into windows that a model can read.
struct SpanWindows {
  private let tokenizer: Tokenizer
  private let (length, overlap): (Int, Int)
  /// A window's marks, with a number below 0 for question and context.
  private let layout: Encoding
  private let (first, second): (Int, Int)

  /// A question's windows, and the bytes of its context that its tokens stand for.
  struct Cut {
    var windows: [SpanWindow]
    var spans: [Range<Int>]

    /// The bytes from the first of some tokens to the last.
    func span(_ tokens: Range<Int>) -> Range<Int> {
      guard let first = spans[tokens].first, let last = spans[tokens].last, first.lowerBound <= last.upperBound else { return 0..<0 }
      return first.lowerBound..<last.upperBound
    }
  }

  /// - Parameter length: tokens of a window; nil for 384, or what the model takes
  init(_ model: Model, _ tokenizer: Tokenizer, length: Int?, overlap: Int) throws {
    let context = try model.contextLength
    if let length, length > context { throw NibbleError.usage("--max-length \(length) is more than the model's context of \(context)") }
    (self.tokenizer, self.length, self.overlap) = (tokenizer, length ?? min(384, context), overlap)
    layout = tokenizer.addingSpecialTokens(to: [-1], pair: [-2])
    guard let first = layout.ids.firstIndex(of: -1), let second = layout.ids.firstIndex(of: -2), first < second else {
      throw NibbleError.badInput("\(path: model.path): the tokenizer has no form for two texts")
    }
    (self.first, self.second) = (first, second)
  }

  func windows(_ question: SpanQuestion) throws -> Cut {
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
          + "no more than windows have in common; --doc-stride \(overlap) and --max-length change that")
    }
    let windows = SpanWindow.parts(of: ids.count, room: room, overlap: overlap).map { part in
      let pair = tokenizer.addingSpecialTokens(to: asked, pair: Array(ids[part]))
      return SpanWindow(ids: pair.ids, types: pair.typeIDs, first: second - 1 + asked.count, tokens: part)
    }
    return Cut(windows: windows, spans: spans)
  }
}
