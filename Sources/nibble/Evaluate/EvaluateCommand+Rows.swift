import NibbleCore
import NibbleEvaluation
import NibbleTraining

extension EvaluateCommand {
  /// Rows as training has them: the loss of answers, and classes.
  func judgeRows(_ started: Double) throws {
    let open = try OpenModel(model, common)
    let isClassifier = open.model.classCount != nil
    let right: [Task] = !isClassifier ? [.lm] : open.model.isRegression ? [.regression, .classification] : [.classification, .pairs]
    guard right.contains(task) else {
      let kind = !isClassifier ? "is no classifier" : open.model.isRegression ? "is a regression" : "is a classifier"
      throw NibbleError.usage("\(model.base) \(kind): --task \(right[0].rawValue)")
    }
    let rows = try TrainingRows(
      open.model, tokenizerPath: tokenizer, maxLength: maxLength, trainsOnPrompt: trainOnPrompt, template: template,
      breaksMarks: breakMarks, learnedTurns: trainOnTurns)
    let read = try rows.read(data, keepsTexts: asking.predictions != nil)
    common.warn(rows.warnings + read.warnings)
    let found = try RowScores(
      open.model, read.rows.map { .init($0.input, labels: $0.labels, targets: $0.targets) }, adapters: try open.all(),
      progress: common.progress("evaluate", unit: "rows"))
    Progress.clear()
    guard found.count > 0 else { throw NibbleError.badInput("\(path: data): nothing in its \(read.rows.count) rows is scored") }
    if let predictions = asking.predictions { try Predictions(found, read, rows.classes).write(to: predictions) }
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
}
