import ArgumentParser
import NibbleCore
import NibbleEvaluation
import NibbleModels

/// A task of `evaluate` at each validation of a training run.
struct ValidationTask: ParsableArguments {
  /// Tasks of `evaluate` that validations can ask for: those asked row by row.
  enum Task: String, ExpressibleByArgument, CaseIterable { case choices, nlg, labels, qa, classification }

  @Option(
    help: ArgumentHelp(
      "Measure a task of 'evaluate' at each validation, too: choices, nlg, labels, qa, or classification by words.", valueName: "TASK"))
  var evalTask: Task?
  @Option(help: ArgumentHelp("The rows of --eval-task (default: those to validate on).", valueName: "FILE")) var evalData: String?
  @Option(
    parsing: .singleValue,
    help: ArgumentHelp("An option that 'evaluate' has for the task, such as few-shot=5 or limit=100; may be repeated.", valueName: "NAME[=VALUE]"))
  var evalOption: [String] = []
  @Option(help: ArgumentHelp("The figure of validations that decides which is the best: of losses the least, of others the greatest.", valueName: "FIGURE"))
  var metricForBestModel = "loss"

  /// What is said once for all validations, or is no matter of a task.
  private static let options: Set = [
    "question-style", "few-shot", "exemplars", "prompt-format", "chat", "label-list", "wordnet", "paraphrases", "max-new-tokens", "num-beams",
    "length-penalty", "no-repeat-ngram-size", "stop", "limit", "max-answer-length",
  ]

  /// What asks the model at each validation; nil without a task. The rows are read now.
  ///
  /// - Parameters:
  ///   - rows: those to validate on
  ///   - windows: tokens of a window of a context, and those that two have in common, of models that mark answers
  func measure(
    _ model: Model, base: String, rows: String?, windows: (length: Int?, overlap: Int), _ common: CommonOptions
  ) throws -> (([ActiveAdapter]) throws -> [(key: String, value: Double)])? {
    guard let evalTask, let data = evalData ?? rows else {
      common.warnIgnored(["--eval-data", "--eval-option"], "there is no --eval-task")
      return nil
    }
    var words = ["--base", base, "--data", data, "--task", evalTask.rawValue, "--quiet"]
    if model.marksSpans, evalTask == .qa {
      words += ["--doc-stride", "\(windows.overlap)"] + (windows.length.map { ["--max-length", "\($0)"] } ?? [])
    }
    for text in evalOption {
      let (name, value) = (String(text.prefix { $0 != "=" }).replacing("_", with: "-"), text.drop { $0 != "=" }.dropFirst())
      guard Self.options.contains(name) else {
        throw NibbleError.usage("--eval-option \(quoted(text)): no such option of a task; there are \(Self.options.sorted().joined(separator: ", "))")
      }
      words += text.contains("=") ? ["--\(name)", String(value)] : ["--\(name)"]
    }
    let command: EvaluateCommand
    do { command = try EvaluateCommand.parse(words) } catch {
      let text = EvaluateCommand.message(for: error).split { $0.isNewline || $0 == " " }.joined(separator: " ")
      throw NibbleError.usage("--eval-task \(evalTask.rawValue): \(text)")
    }
    let asks = try command.asker(model)
    return { try asks($0).map { ($0.key, $0.score.value) } }
  }

  /// As `run.yaml` has them.
  var yaml: [(String, JSON?)] {
    [
      ("eval_task", evalTask.map { JSON($0.rawValue) }), ("eval_data", evalData.map { JSON($0) }),
      ("eval_option", evalOption.isEmpty ? nil : JSON(evalOption)),
      ("metric_for_best_model", metricForBestModel == "loss" ? nil : JSON(metricForBestModel)),
    ]
  }
}

extension EvaluateCommand {
  /// Reads the rows of a task, and gives what asks the model for them, with adapters as they are then.
  ///
  /// - Throws: `.usage` for tasks that are not asked row by row
  func asker(_ model: Model) throws -> ([ActiveAdapter]) throws -> [Figure] {
    if task == .qa, model.marksSpans {
      let asked = QaTask(), questions = try asked.questions(data, limit: asking.limit)
      let items = questions.map { AnswerItem(prompt: $0.question, references: $0.references, place: $0.place) }
      return { try asked.figures(items, mark(questions, model, $0, nil)) }
    }
    guard model.writesText else { throw NibbleError.usage("\(path: model.path) does not write text: --eval-task cannot ask it") }
    switch task {
    case .choices:
      let questions = try choiceQuestions().questions
      return { try ChoiceAnswers(questions, ask(questions, model, $0, nil)).figures() }
    case .classification:
      let (labels, questions) = try labelQuestions()
      return { try labels.figures(ChoiceAnswers(questions, ask(questions, model, $0, nil))) }
    case .nlg, .labels, .qa:
      let asked = try answerTask() ?? QaTask()
      let (items, search) = (try items(asked, PromptFormat(asking.promptFormat ?? asked.format)), asking.search(asked.search))
      return { try asked.figures(items, write(items, model, $0, search, nil)) }
    case .perplexity, .lm, .mlm, .pairs, .regression, .embed, .images:
      throw NibbleError.usage("--eval-task \(task.rawValue): validations can ask for choices, nlg, labels, qa, or classification by words")
    }
  }
}
