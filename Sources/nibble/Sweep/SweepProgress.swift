import NibbleCore
import NibbleFormats
import NibbleSweep

/// Runs a sweep, says what happens on standard error, and keeps the summary up to date.
struct SweepProgress {
  let plan: SweepPlan
  let graph: StepGraph
  let folder: SweepFolder
  let runner: SweepRunner
  /// Steps of training, as planned.
  let trainingSteps: [StepKey: Int]
  let isQuiet: Bool

  func run(only verbs: Set<Verb> = Set(Verb.allCases)) throws {
    var titles: [StepKey: String] = [:]
    let cells = plan.cells
    for run in graph.runs.reversed() {
      let title = (plan.experiments.count > 1 ? cells[run.cell].experiment + ": " : "") + cells[run.cell].title + (run.seed.map { ", seed \($0)" } ?? "")
      for step in run.steps { titles[step.key] = step.name == "quantize" ? "" : title }
    }
    // Until everything is written, a signal is for the runs.
    try Interrupt.finishing(saying: isQuiet ? "" : "nibble: ending the runs, which save where they are; a second Ctrl-C stops at once\n") {
      let pace = SweepPace(graph, trainingSteps: trainingSteps)
      try writeSummary()
      // Pictures are drawn once, when it is over or interrupted.
      defer { try? writeSummary(plots: true) }
      try runner.run(only: verbs) { event in
        guard case .ended(let step, let state) = event else { return }
        tell(step, state, titles[step.key] ?? "", pace)
        if step.verb == .evaluate || graph.order.count < 200 { try writeSummary() }
      }
    }
  }

  private func tell(_ step: Step, _ state: SweepRunner.State, _ title: String, _ pace: SweepPace) {
    let name = [step.title, title].filter { !$0.isEmpty }.joined(separator: " of ")
    switch state {
    case .done(let record):
      let time = pace.left(runner.states, jobs: runner.jobs).map { ", eta \(TrainingLog.clock($0))" } ?? ""
      let rest = runner.left > 0 ? ", \(runner.left) steps left\(time)" : ""
      say("\(name): \(Self.figures(record, step))\(rest)")
    case .failed(let failure): say("\(name) failed: \(failure.message)")
    default: break
    }
  }

  private static func figures(_ record: StepRecord, _ step: Step) -> String {
    let found = step.verb == .evaluate ? Figures.measured(record.report) : step.verb == .finetune ? Figures.trained(record.report) : []
    return found.isEmpty ? "done" : found.prefix(3).map { "\($0.name.replacing("_", with: " ")) \(SweepResults.figure($0.value))" }.joined(separator: ", ")
  }

  private func say(_ text: String) {
    guard !isQuiet else { return }
    Progress.clear()
    write("nibble: \(oneLine(text))\n", to: 2)
  }

  private func writeSummary(plots: Bool = false) throws {
    let results = SweepResults(plan, graph, runner.states, version: nibbleVersion, machine: SweepCommand.machine)
    try results.write(to: folder, plots: plots)
  }
}
