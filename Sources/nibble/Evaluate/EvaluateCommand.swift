import ArgumentParser
import NibbleCore
import NibbleEvaluation
import NibbleModels
import NibbleTraining

struct EvaluateCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "evaluate",
    abstract: "Measure a model on data: perplexity, loss of answers, accuracy of classes.",
    discussion: """
      perplexity reads a text file, which '<|endoftext|>' lines divide into documents, or rows with a "text" key (.jsonl, .json). Each token is \
      scored once, in windows of --context tokens that begin with the tokenizer's first special token; with --stride below the context, \
      windows overlap. A single text is scored whole. Of several texts only the first window is scored, and the summary counts the \
      rest; --windows whole scores everything. The standard error treats tokens as independent.

      lm, mlm, classification, pairs and regression read rows as finetune does. lm reports the mean loss of the answers' tokens, mlm asks a model \
      that fills masks (BertForMaskedLM and its like) for hidden tokens and reports loss, accuracy and top-5 accuracy, classification \
      and pairs accuracy, F1 and their like, regression correlations. A model without a head for classes is asked for their words, which \
      --label-list names.

      choices asks questions with choices: MMLU, ARC, HellaSwag, PIQA, WinoGrande, OpenBookQA, BoolQ and Social IQa, as the files of these sets \
      have them or with "question", "choices" and "answer", and rows with a "prompt" of your own. Prompts and figures are those of EleutherAI's \
      lm-evaluation-harness.

      nlg, labels and qa have the model write: text from data as in the E2E challenge (BLEU, NIST, ROUGE-L, CIDEr-D, METEOR), lists of labels as in \
      SemEval-2021 task 6 (F1), answers as in SQuAD (exact match, F1). --prompt-format says how a row becomes a prompt. A model whose head marks answers in a text (BertForQuestionAnswering \
      and its like) is asked to mark them: long contexts are read in windows of --max-length tokens that have --doc-stride tokens in common.

      embed reads pairs of texts with a number, and correlates it with the cosine of the texts' vectors.

      images asks a classifier of images: PNG and JPEG files in a folder with a folder per class, rows with "image" and "label", or a .bin file of \
      CIFAR-10. Images are prepared as the model's preprocessor_config.json says.

      Every figure has its standard error and a 95 % interval. With --compare-to, both models are asked, and the difference has an interval too.
      """)

  enum Task: String, ExpressibleByArgument, CaseIterable { case perplexity, lm, mlm, classification, pairs, regression, choices, nlg, labels, qa, embed, images }

  @OptionGroup var model: ModelOptions
  @Option(help: "The task: perplexity, lm, mlm, classification, pairs, regression, choices, nlg, labels, qa, embed or images.") var task: Task = .perplexity
  @Option(help: ArgumentHelp("The data: a text file, JSON Lines or a JSON array; images as a folder with a folder per class, rows or CIFAR-10's .bin.", valueName: "FILE")) var data: String
  @Option(help: "Tokens per window (default: the model's context, at most 2048).") var context: Int?
  @Option(help: "New tokens per window (default: as many as fit).") var stride: Int?
  @Option(help: "What to score of each document: first (window) or whole.") var windows: Perplexity.Windows?
  @Option(help: ArgumentHelp("Compare with another model: KL divergence and top-1 agreement (perplexity; with the same tokenizer), or the difference of each figure (other tasks).", valueName: "MODEL"))
  var compareTo: String?
  @Option(
    help: ArgumentHelp(
      "Attach an adapter to the model that is compared with, so that a merge can be compared with its parts; may be repeated.",
      valueName: "[NAME=]DIR[:WEIGHT]"))
  var compareAdapter: [String] = []
  @Option(help: "A tokenizer other than the model's own.") var tokenizer: String?
  @Option(help: "Largest number of tokens per row (lm, mlm, classes, regression), or per window (qa by a head; default: 384).") var maxLength: Int?
  @Flag(help: "Score the prompts too (lm).") var trainOnPrompt = false
  @Option(
    help: ArgumentHelp(
      "How messages are rendered (lm): llama-3, chatml, mistral, zephyr, or a template file (default: the model's own template).",
      valueName: "NAME|FILE"))
  var template: TemplateChoice?
  @Option(help: "Which answers of a conversation are scored (lm): all, last.") var trainOnTurns: LearnedTurns = .all
  @Flag(help: "Accept a template whose special tokens the tokenizer splits into pieces (lm).") var breakMarks = false
  @OptionGroup var asking: AskingOptions
  @OptionGroup var common: CommonOptions

  func run() throws {
    let started = monotonicSeconds()
    let ignored = Self.flags.filter { !$0.value.contains(task) && $0.key != "--predictions" }.keys.sorted()
    common.warnIgnored(ignored, "--task is \(task.rawValue)")
    if let predictions = asking.predictions {
      guard Self.flags["--predictions"]?.contains(task) == true else {
        throw NibbleError.usage("--predictions is for rows that are asked one by one, not for --task \(task.rawValue)")
      }
      guard PathKind(predictions) == .nothing else { throw NibbleError.usage("\(predictions) exists") }
    }
    if asking.resume, asking.predictions == nil { throw NibbleError.usage("--resume goes with --predictions, which holds the answers so far") }
    switch task {
    case .perplexity: try measurePerplexity(started)
    case .lm, .mlm, .classification, .pairs, .regression: try judgeRows(started)
    case .choices: try askChoices(started)
    case .embed: try compareVectors(started)
    case .images: try judgeImages(started)
    case .qa: try judgeQuestions(started)
    case .nlg, .labels: if let task = try answerTask() { try judgeAnswers(task, started) }
    }
  }

  /// Flags that only some tasks have.
  static let flags: [String: Set<Task>] = {
    let rows: Set<Task> = [.lm, .mlm, .classification, .pairs, .regression], written: Set<Task> = [.nlg, .labels, .qa]
    let asked = written.union([.choices])
    let words = written.union([.classification])
    return [
      "--context": [.perplexity], "--stride": [.perplexity], "--windows": [.perplexity], "--max-length": rows.union([.qa]), "--doc-stride": [.qa], "--mlm-probability": [.mlm], "--max-answer-length": [.qa], "--train-on-prompt": [.lm],
      "--template": [.lm], "--train-on-turns": [.lm], "--break-marks": [.lm], "--question-style": [.choices],
      "--few-shot": words.union([.choices]), "--exemplars": words.union([.choices]), "--prompt-format": words, "--chat": written,
      "--label-list": [.labels, .classification], "--wordnet": [.nlg], "--paraphrases": [.nlg], "--max-new-tokens": written,
      "--num-beams": written, "--length-penalty": written, "--no-repeat-ngram-size": written, "--stop": written, "--pooling": [.embed],
      "--limit": asked.union(rows).union([.embed, .images]), "--resume": words.union([.choices]),
      "--predictions": asked.union(rows).union([.embed, .images]).subtracting([.lm, .mlm]),
    ]
  }()

  /// Where the answers of this evaluation are kept; nil without `--predictions`.
  ///
  /// - Parameter how: what beside model, adapters and data decides about them
  func journal(_ how: [(key: String, value: JSON)]) throws -> AnswerJournal? {
    guard let path = asking.predictions else { return nil }
    var subject: [(key: String, value: JSON)] = [("task", JSON(task.rawValue)), ("compute_dtype", JSON(model.computeDtype.rawValue))]
    // Numbers of rows depend on it where rows have subjects.
    if let limit = asking.limit { subject.append(("limit", JSON(limit))) }
    let files = [model.base, data, asking.exemplars, model.patch, tokenizer].compactMap { $0 } + (try model.adapters.map(\.path))
    subject.append(("files", .array(try files.map { [JSON($0), try Self.stamps($0)] })))
    subject.append(("adapters", JSON(model.adapter)))
    return try AnswerJournal(path, subject: .object(subject + how), resumes: asking.resume)
  }

  /// What tells a file, or the files of a folder, from others and from themselves at another time.
  private static func stamps(_ path: String) throws -> JSON {
    guard PathKind(path) == .folder else { return PathKind(path) == .file ? JSON(try InputFile(path).stamp) : .null }
    return .array(
      try namesInFolder(path).sorted().filter { PathKind(path + "/" + $0) == .file }.map { [JSON($0), JSON(try InputFile(path + "/" + $0).stamp)] })
  }

  /// Figures and what they were found with.
  func print(
    _ report: FigureReport, _ started: Double, facts: [(label: String, key: String, value: JSON)],
    table: [(name: String, value: Double, count: Int)] = [], entities: [EntityScores.Counts] = []
  ) throws {
    let seconds = monotonicSeconds() - started
    if common.json {
      var members: [(key: String, value: JSON)] = [("task", JSON(task.rawValue)), ("base", JSON(model.base)), ("data", JSON(data))]
      members += facts.map { ($0.key, $0.value) } + (try report.members())
      if !table.isEmpty {
        members.append(("subjects", .object(table.map { ($0.name, ["value": JSON($0.value), "count": JSON($0.count)]) })))
      }
      if !entities.isEmpty {
        members.append(("entities", .object(entities.map { one in
          (one.type, ["precision": JSON(one.precision), "recall": JSON(one.recall), "f1": JSON(one.f1), "number": JSON(one.actual)])
        })))
      }
      return try StandardOutput.print(.object(members + [("seconds", JSON(seconds)), ("peak_memory", JSON(ResourceUse.now.peakBytes))]))
    }
    try Summary.printRows(
      report.rows() + (table.count > 1 ? table.map { (oneLine($0.name), "\(decimal($0.value, 5)) of \($0.count)") } : [])
        + entities.map { (oneLine($0.type), "F1 \(decimal($0.f1, 5)), precision \(decimal($0.precision, 5)), recall \(decimal($0.recall, 5)), \($0.actual) in the data") }
        + facts.map { ($0.label, $0.value.string ?? $0.value.text()) }
        + [("time", "\(decimal(seconds, 2)) s"), ("peak memory", byteText(ResourceUse.now.peakBytes))])
  }
}

extension Perplexity.Windows: ExpressibleByArgument {}
