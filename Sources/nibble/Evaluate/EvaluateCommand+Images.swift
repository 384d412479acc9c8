import NibbleCore
import NibbleEvaluation
import NibbleTraining

extension EvaluateCommand {
  /// Classes of images.
  func judgeImages(_ started: Double) throws {
    let own = try scoreImages(model)
    let other = try compareTo.map { try scoreImages(model.replaced($0, adapters: compareAdapter)) }
    Progress.clear()
    let found = try own.scores.figures(), others = try other?.scores.figures()
    if let predictions = asking.predictions { try write(own.scores, own.rows, to: predictions) }
    let report = FigureReport(figures: found.figures, others: others?.figures ?? [], other: [compareTo ?? ""] + compareAdapter)
    var facts: [(label: String, key: String, value: JSON)] = [("images", "images", JSON(own.scores.count))]
    if let confusion = found.labels.confusionMatrix { facts.append(("true x predicted", "confusion", .array(confusion.map { JSON($0) }))) }
    try print(report, started, facts: facts)
  }

  private func scoreImages(_ options: ModelOptions) throws -> (scores: ImageScores, rows: ImageRows) {
    let open = try OpenModel(options, common)
    let rows = try ImageRows(open.model, data, limit: asking.limit)
    common.warn(rows.warnings)
    let adapters = try open.all(), progress = common.progress("evaluate", unit: "images")
    var scores = ImageScores()
    for first in Swift.stride(from: 0, to: rows.count, by: ImageScores.passImages) {
      try Interrupt.check()
      let part = try (first..<min(first + ImageScores.passImages, rows.count)).map { try rows.row($0) }
      try scores.add(open.model, part.map { RowScores.Row($0.input, targets: $0.targets) }, adapters: adapters)
      progress(first + part.count, rows.count)
    }
    return (scores, rows)
  }

  /// A line an image: where it lies, its class, the class it was taken for, and the scores of all classes.
  private func write(_ scores: ImageScores, _ rows: ImageRows, to path: String) throws {
    let names = rows.classes.names
    func name(_ number: Int) -> JSON { names.indices.contains(number) ? JSON(names[number]) : JSON(number) }
    let lines = zip(scores.predicted, scores.scores).enumerated().map { index, found in
      let line: JSON = [
        "place": JSON(rows.place(index)), "label": name(rows.target(index)), "prediction": name(found.0),
        "scores": .array(found.1.map { JSON(Double($0)) }),
      ]
      return line.text() + "\n"
    }
    try TextFile.write(lines.joined(), to: path)
  }
}
