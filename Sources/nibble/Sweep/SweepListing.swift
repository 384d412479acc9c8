import NibbleCore
import NibbleSweep

/// What a sweep would run.
struct SweepListing {
  let plan: SweepPlan
  let graph: StepGraph
  let check: PlanCheck
  let spelling: PlanSpelling
  let jobs: Int
  let budget: Int

  /// - Parameter record: of a step that is done
  func print(json: Bool, _ record: (StepKey) -> StepRecord?) throws {
    let steps = try graph.order.compactMap { key -> (step: Step, command: String)? in
      guard let step = graph.steps[key] else { return nil }
      let words = try spelling.words(step, { graph.steps[$0].map { "steps/\($0.folder)/\($0.output ?? "")" } ?? "" }, PlanCheck.outputWords(step))
      return (step, "nibble " + words.map(shellWord).joined(separator: " "))
    }
    let memory = check.memory
    if json {
      return try StandardOutput.print([
        "verb": "sweep", "cells": JSON(plan.cells.count), "runs": JSON(graph.runs.count), "jobs": JSON(jobs), "memory": JSON(budget),
        "steps": .array(
          steps.map { step, command in
            let plan = check.plans[step.key]
            return [
              "step": JSON(step.title), "folder": JSON("steps/" + step.folder), "command": JSON(command), "line": JSON(step.line), "done": .bool(record(step.key) != nil),
              "peak_memory": memory[step.key].map { JSON($0) } ?? .null, "steps": plan?["steps"] ?? .null, "trained_parameters": plan?["trained_parameters"] ?? .null,
              "seconds": record(step.key).map { JSON($0.seconds) } ?? .null,
              "planned_seconds": check.times && record(step.key) == nil && step.verb == .finetune ? plan?["seconds"] ?? .null : .null,
            ]
          }),
      ])
    }
    let cells = plan.cells
    for (place, cell) in cells.enumerated() {
      let runs = graph.runs.filter { $0.cell == place }
      guard let first = runs.first else { continue }
      let training = first.step("finetune").flatMap { check.plans[$0] }
      let facts = [
        plan.experiments.count > 1 ? cell.experiment : nil, runs.count > 1 ? "\(runs.count) seeds" : nil,
        training?["trained_parameters"]?.int.map { "\($0) parameters" }, training?["steps"]?.int.map { "\($0) steps" },
        first.steps.compactMap { memory[$0.key] }.max().map { "about \(byteText($0)) of memory" },
      ].compactMap { $0 }
      try StandardOutput.print(oneLine(cell.title) + (facts.isEmpty ? "" : ": " + oneLine(facts.joined(separator: ", "))))
    }
    try StandardOutput.print("")
    for (step, command) in steps {
      let mark = record(step.key).map { "done in \(decimal($0.seconds, 1)) s: " } ?? ""
      try StandardOutput.print(oneLine(mark + command))
    }
    try StandardOutput.print("")
    for (step, message) in check.unsure { try StandardOutput.print(oneLine("line \(step.line), \(step.title): not known before its base is packed: \(message)")) }
    let done = steps.filter { record($0.step.key) != nil }
    let seconds = done.map { record($0.step.key)?.seconds ?? 0 }.reduce(0, +)
    let training = check.times ? steps.filter { $0.step.verb == .finetune && record($0.step.key) == nil } : []
    let timed = training.compactMap { check.plans[$0.step.key]?["seconds"]?.double }
    let longer = timed.count < training.count ? "; \(training.count - timed.count) more were not timed" : ""
    try Summary.printRows(
      [
        ("cells", "\(cells.count), \(graph.runs.count) runs with seeds"),
        ("steps", "\(steps.count), each once" + (done.isEmpty ? "" : ", \(done.count) done in \(decimal(seconds, 1)) s")),
        ("at once", "\(jobs), in \(byteText(budget)) of memory"),
      ] + (timed.isEmpty ? [] : [("training", "about \(TrainingLog.clock(timed.reduce(0, +))) for \(timed.count) runs\(longer), without packing and evaluating")]))
  }
}
