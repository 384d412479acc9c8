import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTemplates

extension EvaluateCommand {
  /// What a model writes, judged against references.
  func judgeAnswers(_ task: any AnswerTask, _ started: Double, _ opened: OpenModel? = nil) throws {
    let format = try PromptFormat(asking.promptFormat ?? task.format)
    let items = try items(task, format)
    let search = asking.search(task.search)
    let open = try opened ?? OpenModel(model, common)
    let other = try compareTo.map { try OpenModel(model.replaced($0, adapters: compareAdapter), common) }
    let journal = try journal([
      ("prompt_format", JSON(asking.promptFormat ?? task.format)), ("chat", .bool(asking.chat)), ("max_new_tokens", JSON(search.maximumNew)),
      ("num_beams", JSON(search.beams)), ("length_penalty", JSON(search.lengthPenalty)), ("no_repeat_ngram_size", JSON(search.noRepeatNgram)),
      ("stop", JSON(search.stops)), ("few_shot", JSON(asking.fewShot)),
    ])
    let answers = try write(items, open.model, open.all(), search, journal)
    let figures = try task.figures(items, answers)
    let others = try other.map { try task.figures(items, try write(items, $0.model, $0.all(), search, nil)) } ?? []
    Progress.clear()
    try journal?.publish()
    try print(
      FigureReport(figures: figures, others: others, other: [compareTo ?? ""] + compareAdapter), started,
      facts: [("prompts", "prompts", JSON(items.count)), ("beams", "num_beams", JSON(search.beams))])
  }

  /// The prompts of the data, with as many solved ones before each as are asked for.
  func items(_ task: any AnswerTask, _ format: PromptFormat) throws -> [AnswerItem] {
    let items = try task.items(data, format, limit: asking.limit)
    guard asking.fewShot > 0 else { return items }
    return try task.showing(asking.fewShot, of: asking.solved(), format, before: items)
  }

  /// Prompts that are answered together, between two lines of the journal.
  private static let together = 32

  /// What a model writes for each prompt.
  func write(
    _ items: [AnswerItem], _ model: Model, _ adapters: [ActiveAdapter], _ search: AnswerSearch, _ journal: AnswerJournal?
  ) throws -> [String] {
    let tokens = try ModelTokenizer(model, path: tokenizer)
    let talks = try asking.chat ? ModelChat(model, tokens, path: tokenizer) : nil
    if asking.chat, talks == nil { throw NibbleError.usage("\(path: model.path) has no chat template") }
    let config = try GenerationConfig(model)
    var sampling = Sampling()
    sampling.noRepeatNgram = search.noRepeatNgram
    var generator = Generator(
      model, sampling: sampling, maximumNew: search.maximumNew, endIDs: config.endIDs.union(talks?.answerEnd.map { [$0] } ?? []))
    generator.start = config.start
    let writer = TextGenerator(
      generator: generator,
      tokens: tokens, stops: search.stops, beams: search.beams > 1 ? BeamSearch(width: search.beams, lengthPenalty: search.lengthPenalty) : nil)
    var answers: [String?] = items.indices.map { journal?.rows[$0]?["prediction"]?.string }
    let waiting = items.indices.filter { answers[$0] == nil }
    let progress = common.progress("evaluate", unit: "answers")
    for first in Swift.stride(from: 0, to: waiting.count, by: Self.together) {
      try Interrupt.check()
      let part = waiting[first..<min(first + Self.together, waiting.count)]
      let prompts = try part.map { number in
        do {
          return (prompt: try talks?.prompt(Conversation(items[number].messages)) ?? tokens.prompt(items[number].text), adapters: adapters)
        } catch let error as NibbleError { throw NibbleError(error.kind, "\(path: items[number].place): \(error.text)") }
      }
      for (prompt, number) in zip(prompts, part) where prompt.prompt.count >= (try model.contextLength) {
        throw NibbleError.badInput("\(path: items[number].place): a prompt of \(prompt.prompt.count) tokens leaves no room in the model's context of \(try model.contextLength)")
      }
      let results = try writer.run(prompts) { _, _ in }
      for (number, result) in zip(part, results.texts) {
        answers[number] = result.text
        let item = items[number]
        let row: [(key: String, value: JSON)] = [
          ("row", JSON(number)), ("place", JSON(item.place)), ("text", JSON(item.text)), ("references", JSON(item.references)),
          ("prediction", JSON(result.text)), ("ended", JSON(result.reason.rawValue)),
        ]
        try journal?.add(number, .object(row))
      }
      progress(items.count - waiting.count + first + part.count, items.count)
    }
    return answers.compactMap { $0 }
  }

  /// What `--task` is of the tasks whose answers are written.
  func answerTask() throws -> (any AnswerTask)? {
    switch task {
    case .nlg: NlgTask(try METEOR(wordNet: asking.wordnet, paraphrases: asking.paraphrases))
    case .labels: try LabelsTask(try asking.labels())
    default: nil
    }
  }
}

extension AnswerItem {
  /// The prompt as a conversation: what is shown before it is what was said before.
  fileprivate var messages: [JSON] {
    examples.flatMap { [Conversation.message("user", $0.prompt), Conversation.message("assistant", $0.answer)] } + [Conversation.message("user", prompt)]
  }
}
