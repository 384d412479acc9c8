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
      lm and classification read rows as finetune does. lm reports the mean loss of the answers' tokens; classification reports \
      accuracy, F1, precision, recall and Matthews' correlation.

      perplexity reads a text file, which '<|endoftext|>' lines divide into documents, or rows with a "text" key (.jsonl, .json). Each token is \
      scored once, in windows of --context tokens that begin with the tokenizer's first special token; with --stride below the context, \
      windows overlap. A single text is scored whole. Of several texts only the first window is scored, and the summary counts the \
      rest; --windows whole scores everything. The standard error treats tokens as independent.
      """)

  enum Task: String, ExpressibleByArgument, CaseIterable { case perplexity, lm, classification }

  @OptionGroup var model: ModelOptions
  @Option(help: "The task: perplexity, lm or classification.") var task: Task = .perplexity
  @Option(help: ArgumentHelp("The data: a text file, JSON Lines or a JSON array.", valueName: "FILE")) var data: String
  @Option(help: "Tokens per window (default: the model's context, at most 2048).") var context: Int?
  @Option(help: "New tokens per window (default: as many as fit).") var stride: Int?
  @Option(help: "What to score of each document: first (window) or whole.") var windows: Perplexity.Windows?
  @Option(help: ArgumentHelp("Compare with another model with the same tokenizer: KL divergence, top-1 agreement.", valueName: "MODEL"))
  var compareTo: String?
  @Option(
    help: ArgumentHelp(
      "Attach an adapter to the model that is compared with, so that a merge can be compared with its parts; may be repeated.",
      valueName: "[NAME=]DIR[:WEIGHT]"))
  var compareAdapter: [String] = []
  @Option(help: "A tokenizer other than the model's own.") var tokenizer: String?
  @Option(help: "Largest number of tokens per row (lm, classification).") var maxLength: Int?
  @Flag(help: "Score the prompts too (lm).") var trainOnPrompt = false
  @Option(
    help: ArgumentHelp(
      "How messages are rendered (lm): llama-3, chatml, mistral, zephyr, or a template file (default: the model's own template).",
      valueName: "NAME|FILE"))
  var template: TemplateChoice?
  @Option(help: "Which answers of a conversation are scored (lm): all, last.") var trainOnTurns: LearnedTurns = .all
  @Flag(help: "Accept a template whose special tokens the tokenizer splits into pieces (lm).") var breakMarks = false
  @Option(help: ArgumentHelp("Write for each row its text, label, prediction and probabilities, as JSON Lines (classification).", valueName: "FILE"))
  var predictions: String?
  @OptionGroup var common: CommonOptions

  func run() throws {
    let started = monotonicSeconds()
    if let predictions {
      guard task == .classification else { throw NibbleError.usage("--predictions needs --task classification") }
      guard PathKind(predictions) == .nothing else { throw NibbleError.usage("\(predictions) exists") }
    }
    if task != .perplexity {
      common.warnIgnored(["--context", "--stride", "--windows", "--compare-to", "--compare-adapter"], "--task is \(task.rawValue)")
      return try judgeRows(started)
    }
    common.warnIgnored(["--max-length", "--train-on-prompt", "--template", "--train-on-turns", "--break-marks"], "--task is perplexity")
    let documents = try Documents(data)
    let open = try OpenModel(model, common)
    guard compareAdapter.isEmpty || compareTo != nil else { throw NibbleError.usage("--compare-adapter goes with --compare-to") }
    let other = try compareTo.map { try OpenModel(model.replaced($0, adapters: compareAdapter), common) }
    let tokens = try ModelTokenizer(open.model, path: tokenizer)
    var perplexity = Perplexity()
    perplexity.context = context
    perplexity.stride = stride
    perplexity.windows = windows ?? (documents.documents.count > 1 ? .first : .whole)
    let ids = try documents.documents.map { document in
      do { return try tokens.ids(document.text) } catch let error as NibbleError {
        throw NibbleError(error.kind, "\(path: document.place): \(error.text)")
      }
    }
    let report = try perplexity.run(
      ids, mark: tokens.mark, model: open.model, adapters: try open.all(), comparedTo: other?.model, with: try other?.all() ?? [],
      progress: common.progress("evaluate"))
    Progress.clear()
    let seconds = monotonicSeconds() - started
    if windows == nil, perplexity.windows == .first, report.unscored > 0 {
      common.warn([
        Warning(
          .data,
          "\(report.unscored) tokens beyond the first \(report.context) of their documents were not scored; --windows whole scores them"
        )
      ])
    }
    try common.json ? printJSON(report, seconds) : printText(report, seconds)
  }

  private func judgeRows(_ started: Double) throws {
    let open = try OpenModel(model, common)
    let isClassifier = open.model.classCount != nil
    guard isClassifier == (task == .classification) else {
      throw NibbleError.usage(
        "\(model.base) \(isClassifier ? "is a classifier: --task classification" : "is no classifier: --task lm")")
    }
    let rows = try TrainingRows(
      open.model, tokenizerPath: tokenizer, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template,
      breaksMarks: breakMarks, learnedTurns: trainOnTurns)
    let read = try rows.read(data, keepsTexts: predictions != nil)
    common.warn(rows.warnings + read.warnings)
    let found = try RowScores(
      open.model, read.rows.map { .init($0.input, labels: $0.labels, targets: $0.targets) }, adapters: try open.all(),
      progress: common.progress("evaluate"))
    Progress.clear()
    guard found.count > 0 else { throw NibbleError.badInput("\(path: data): nothing in its \(read.rows.count) rows is scored") }
    if let predictions { try Predictions(found, read, rows.classes).write(to: predictions) }
    let seconds = monotonicSeconds() - started
    var numbers: [(String, String, Double)] = [("loss", "loss", found.loss)]
    if let metrics = found.metrics { numbers += metrics.figures }
    if common.json {
      let members: [(key: String, value: JSON)] =
        [("task", JSON(task.rawValue)), ("base", JSON(model.base)), ("data", JSON(data)), ("rows", JSON(read.rows.count))]
        + [(isClassifier ? "judged" : "tokens", JSON(found.count))] + numbers.map { ($0.1, JSON($0.2)) }
        + [("seconds", JSON(seconds)), ("peak_memory", JSON(ResourceUse.now.peakBytes))]
      return try StandardOutput.print(JSON.object(members))
    }
    try Summary.printRows(
      numbers.map { ($0.0, decimal($0.2, 5)) } + [
        (isClassifier ? "rows" : "tokens", "\(found.count)"), ("time", "\(decimal(seconds, 2)) s"),
        ("peak memory", byteText(ResourceUse.now.peakBytes)),
      ])
  }

  private func printJSON(_ report: Perplexity.Report, _ seconds: Double) throws {
    var members: [(String, JSON)] = [
      ("task", "perplexity"), ("base", JSON(model.base)), ("data", JSON(data)),
      ("compute_dtype", JSON(model.computeDtype.rawValue)),
      ("perplexity", JSON(report.perplexity)), ("standard_error", JSON(report.standardError)), ("loss", JSON(report.loss.value)),
      ("loss_standard_error", JSON(report.loss.standardError)), ("tokens", JSON(report.loss.count)),
      ("unscored_tokens", JSON(report.unscored)), ("documents", JSON(report.documents)), ("windows", JSON(report.windows)),
      ("context", JSON(report.context)), ("stride", JSON(report.stride)),
    ]
    if let comparison = report.comparison {
      members.append(
        (
          "compared_to",
          [
            "model": JSON(compareTo), "adapters": JSON(compareAdapter), "perplexity": JSON(comparison.perplexity), "loss": JSON(comparison.loss.value),
            "kl_divergence": JSON(comparison.divergence.value),
            "kl_standard_error": JSON(comparison.divergence.standardError), "kl_greatest": JSON(comparison.divergence.greatest),
            "top1_agreement": JSON(comparison.agreement.value),
            "top1_standard_error": JSON(comparison.agreement.standardError),
          ]
        ))
    }
    members.append(("document_losses", .array(report.documentLosses.map { JSON($0) })))
    members += [("seconds", JSON(seconds)), ("peak_memory", JSON(ResourceUse.now.peakBytes))]
    try StandardOutput.print(JSON.object(members.map { (key: $0.0, value: $0.1) }))
  }

  private func printText(_ report: Perplexity.Report, _ seconds: Double) throws {
    func with(_ error: Double, _ places: Int) -> String { error.isNaN ? "" : " ± \(decimal(error, places))" }
    var rows = [
      ("perplexity", "\(decimal(report.perplexity, 4))\(with(report.standardError, 4))"),
      ("loss", "\(decimal(report.loss.value, 5))\(with(report.loss.standardError, 5)) nats a token"),
      ("tokens", "\(report.loss.count) scored, \(report.unscored) not, in \(report.documents) documents"),
      ("windows", "\(report.windows) of at most \(report.context) tokens, \(report.stride) new in each"),
    ]
    if let comparison = report.comparison {
      rows += [
        ("compared to", "\(([compareTo ?? ""] + compareAdapter).map(oneLine).joined(separator: " + ")), perplexity \(decimal(comparison.perplexity, 4))"),
        (
          "KL divergence",
          "\(decimal(comparison.divergence.value, 6))\(with(comparison.divergence.standardError, 6)) nats a token"
        ),
        (
          "same best token",
          "\(decimal(100 * comparison.agreement.value, 2))\(with(100 * comparison.agreement.standardError, 2)) %"
        ),
      ]
    }
    let rate = Double(report.loss.count) / max(seconds, 1e-9)
    rows += [
      ("time", "\(decimal(seconds, 2)) s, \(decimal(rate, 0)) tokens/s"), ("peak memory", byteText(ResourceUse.now.peakBytes)),
    ]
    try Summary.printRows(rows)
  }
}

extension Perplexity.Windows: ExpressibleByArgument {}
