import NibbleCompute
import NibbleCore
import NibbleModels
import NibbleQuant
import NibbleTraining

/// What is printed before and after a run.
extension FinetuneCommand {
  /// What is trained, before it is.
  static func trained(_ tuning: Finetuning, of model: Model) -> String {
    let all = model.checkpoint.tensors.reduce(0) { $0 + $1.count }
    let share = "\(decimal(100 * Double(tuning.parameters) / Double(max(all, 1)), 3)) % of \(all)"
    return "training \(tuning.parameters) parameters" + (tuning.adapted > 0 ? " of \(tuning.adapted) modules" : "") + ", \(share)"
  }

  func printPlan(_ tuning: Finetuning, _ data: TrainingRows.Data) throws {
    let length = data.longest
    let plan = tuning.memory(length: length, threads: common.workers)
    let parts =
      [("weights", plan.weights), ("trained", plan.trained), ("gradients", plan.gradients), ("optimizer", plan.moments)]
      + (plan.paged > 0 ? [("paged states", plan.paged)] : [])
      + [("activations", plan.activations), ("rest", plan.rest), ("peak memory", plan.total)]
    let time = time ? try tuning.time() : nil
    let published = asPublished ? try tuning.publishedMemory(length: length, threads: common.workers) : nil
    if common.json {
      let members: [(key: String, value: JSON)] =
        [
          ("verb", "finetune"), ("steps", JSON(tuning.steps)), ("longest_row", JSON(length)), ("trained_parameters", JSON(tuning.parameters)),
        ]
        + data.counts + parts.map { ($0.0.replacing(" ", with: "_"), JSON($0.1)) }
        + (time.map { [("seconds", JSON($0.total)), ("seconds_a_step", JSON($0.step)), ("seconds_a_validation", JSON($0.validation))] } ?? [])
        + (published.map { [("as_published", json($0))] } ?? [])
      return try StandardOutput.print(JSON.object(members))
    }
    try Summary.printRows(
      [
        ("steps", "\(tuning.steps), rows of at most \(length) \(data.areImages ? "pixels" : "tokens"), \(batchSize) at once"), ("rows", data.summary),
        ("parameters", "\(tuning.parameters) of \(tuning.adapted) modules"),
      ]
        + (time.map { [("time", "about \(TrainingLog.clock($0.total)): \(decimal($0.step, 3)) s a step" + ($0.validation > 0 ? ", \(decimal($0.validation, 2)) s a validation" : ""))] } ?? [])
        + parts.map { ($0.0, byteText($0.1)) })
    if let published { try printPublished(published) }
  }

  /// The table in its own units and digits, with what it is beside it.
  private func printPublished(_ table: PublishedMemory) throws {
    try StandardOutput.print("\nas published, GB of 2^30 bytes:")
    let rows = table.lines.map { line in
      (line.name, "\(decimal(line.published, line.digits)), planned: \(decimal(line.actual, line.digits))")
    }
    let digits = table.lines.contains { $0.digits > 2 } ? 3 : 2
    try Summary.printRows(rows + [("total", "\(decimal(table.total, digits)), planned: \(decimal(table.actualTotal, digits)) and activations")])
    try StandardOutput.print(table.remark)
  }

  private func json(_ table: PublishedMemory) -> JSON {
    .object(
      table.lines.map { ($0.name, JSON($0.published)) } + [("total", JSON(table.total)), ("remark", JSON(table.remark))])
  }

  /// Runs `train`, and adds to the error of a run that a signal ended the command that resumes it.
  func interruptible(_ train: () throws -> Finetuning.Result) throws -> Finetuning.Result {
    // On a terminal the line in hand is overwritten.
    let notice: StaticString =
      common.quiet ? "" : Progress.isTerminal
      ? "\r\u{1B}[Knibble: finishing this step to save a checkpoint; a second Ctrl-C stops at once\n"
      : "nibble: finishing this step to save a checkpoint; a second signal stops at once\n"
    do { return try Interrupt.finishing(saying: notice, train) } catch let error as NibbleError
      where error.kind == .interrupted || error.kind == .terminated
    {
      let words = CommandLine.arguments.dropFirst().filter { $0 != "--force" && $0 != "--resume" } + ["--resume"]
      throw NibbleError(error.kind, error.text + ": nibble \(words.map(shellWord).joined(separator: " "))")
    }
  }

  private func rate(_ result: Finetuning.Result, _ data: TrainingRows.Data, _ seconds: Double) -> String {
    let seconds = max(seconds, 1e-9)
    return data.areImages
      ? "\(decimal(Double(result.steps * batchSize * gradientAccumulationSteps) / seconds, 0)) images a second"
      : "\(decimal(Double(result.tokens) / seconds, 0)) tokens a second"
  }

  func summarize(_ result: Finetuning.Result, _ data: TrainingRows.Data, _ output: String, _ seconds: Double) throws {
    let use = ResourceUse.now
    if common.json {
      let first: [(key: String, value: JSON)] = [
        ("verb", "finetune"), ("output", JSON(output)), ("steps", JSON(result.steps)), ("loss", JSON(result.smoothedLoss)),
        ("trained", JSON(result.trained)),
      ]
      let last: [(key: String, value: JSON)] = [
        ("best_step", result.bestStep.map { JSON($0) } ?? .null), ("tokens", JSON(result.tokens)), ("seconds", JSON(seconds)),
        ("seconds_of", .object(result.parts.map { ($0.name, JSON($0.seconds)) })),
        ("cpu_seconds", JSON(use.userSeconds + use.systemSeconds)), ("peak_memory", JSON(use.peakBytes)),
        ("threads", JSON(common.workers)),
      ]
      let validations =
        result.validationBefore.map { ("valid_\($0.key)_before", JSON($0.value)) } + result.validation.map { ("valid_" + $0.key, JSON($0.value)) }
      return try StandardOutput.print(JSON.object(first + validations + data.counts + last))
    }
    var rows = [
      ("output", output), ("trained", "\(result.trained) parameters"), ("rows", data.summary),
      ("steps", "\(result.steps), " + (result.smoothedLoss.isNaN ? "nothing learned" : "smoothed loss \(decimal(result.smoothedLoss, 4))")),
    ]
    if !result.validation.isEmpty {
      func text(_ figures: [(key: String, value: Double)]) -> String {
        figures.filter { validation.evalTask != nil || ["loss", "entity_f1", "accuracy", "f1_macro", "matthews"].contains($0.key) }
          .map { "\($0.key.replacing("_", with: " ")) \(decimal($0.value, 4))" }.joined(separator: ", ")
      }
      if !result.validationBefore.isEmpty { rows.append(("validation before", text(result.validationBefore))) }
      rows.append(("validation after", text(result.validation) + (result.bestStep.map { ", of step \($0)" } ?? "")))
    }
    if common.verbose {
      let all = max(result.parts.reduce(0) { $0 + $1.seconds }, 1e-9)
      rows.append(
        ("of the steps", result.parts.map { "\($0.name) \(decimal(100 * $0.seconds / all, 1)) %" }.joined(separator: ", ")))
      rows.append(("kernels", KernelChoice.current.summary))
    }
    rows += [
      ("time", "\(decimal(seconds, 2)) s, \(rate(result, data, seconds))"),
      ("peak memory", byteText(use.peakBytes)),
    ]
    try Summary.printRows(rows)
  }
}
