import NibbleCore
import NibbleEvaluation
import NibbleTraining

extension EvaluateCommand {
  /// Rows as training has them: the loss of answers, and classes.
  func judgeRows(_ started: Double) throws {
    let open = try OpenModel(model, common)
    let isClassifier = open.model.classCount != nil, isOfTokens = open.model.tokenClassCount != nil
    if !isClassifier, !isOfTokens, task == .classification, asking.labelList != nil { return try chooseLabels(open, started) }
    if isClassifier || isOfTokens { common.warnIgnored(["--few-shot", "--exemplars", "--prompt-format", "--label-list", "--resume"], "the model has a head for classes") }
    let own = try score(open)
    let other = try compareTo.map { try score(OpenModel(model.replaced($0, adapters: compareAdapter), common)) }
    Progress.clear()
    if let predictions = asking.predictions {
      if isOfTokens {
        try TokenPredictions(found: own.found, data: own.read, classes: own.classes).write(to: predictions)
      } else {
        try Predictions(own.found, own.read, own.classes).write(to: predictions)
      }
    }
    let report = FigureReport(figures: own.figures, others: other?.figures ?? [], other: [compareTo ?? ""] + compareAdapter)
    let (found, read) = (own.found, own.read)
    var facts: [(label: String, key: String, value: JSON)] = [("rows", "rows", JSON(read.rows.count))]
    facts.append(isClassifier ? ("judged", "judged", JSON(found.count)) : ("tokens", "tokens", JSON(found.count)))
    if let confusion = found.metrics?.confusionMatrix { facts.append(("true x predicted", "confusion", .array(confusion.map { JSON($0) }))) }
    try print(report, started, facts: facts, entities: own.entities)
  }

  /// Rows as a model reads them, and what it makes of them.
  private struct Scored {
    let read: TrainingRows.Data
    let classes: Classes?
    let found: RowScores
    let figures: [Figure]
    let entities: [EntityScores.Counts]
  }

  private func score(_ open: OpenModel) throws -> Scored {
    let isClassifier = open.model.classCount != nil || open.model.tokenClassCount != nil
    let right: [Task] = open.model.fillsMasks ? [.mlm] : open.model.tokenClassCount != nil ? [.classification] : !isClassifier ? [.lm] : open.model.isRegression ? [.regression, .classification] : [.classification, .pairs]
    guard right.contains(task) else {
      let kind = open.model.fillsMasks ? "fills masks" : task == .mlm ? "fills no masks" : !isClassifier ? "is no classifier (--label-list asks it for words)" : open.model.isRegression ? "is a regression" : "is a classifier"
      throw NibbleError.usage("\(path: open.model.path) \(kind): --task \(right[0].rawValue)")
    }
    let rows = try TrainingRows(
      open.model, tokenizerPath: tokenizer, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template,
      breaksMarks: breakMarks, learnedTurns: trainOnTurns)
    var read = try rows.read(data, keepsTexts: asking.predictions != nil)
    if let limit = asking.limit { read.rows = Array(read.rows.prefix(limit)) }
    common.warn(rows.warnings + read.warnings)
    read.rows = TrainingRow.judged(read.rows, seed: 0, probability: asking.mlmProbability)
    let scored = read.rows.map { RowScores.Row($0.input, labels: $0.labels, targets: $0.targets) }
    let found = try RowScores(open.model, scored, adapters: try open.all(), progress: common.progress("evaluate", unit: "rows"))
    Progress.clear()
    guard found.count > 0 else { throw NibbleError.badInput("\(path: data): nothing in its \(read.rows.count) rows is scored") }
    let names = rows.tokenClasses?.names ?? []
    return Scored(
      read: read, classes: rows.classes ?? rows.tokenClasses, found: found, figures: try found.figures(scored, names: names),
      entities: found.entities(names)?.types ?? [])
  }
}
