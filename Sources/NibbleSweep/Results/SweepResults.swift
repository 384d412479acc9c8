import NibbleCore
import NibbleEvaluation

/// What a sweep has found so far: a row for each cell.
package struct SweepResults: Sendable {
  package struct Row: Sendable {
    package let experiment: String
    package let values: [CellValue]
    package let seeds: [Int?]
    /// By figure (`TASK.FIGURE`), in the order they were found, a number for each seed; nil where there is none.
    package var figures: [(name: String, values: [Double?])] = []
    /// Numbers that were trained.
    package var trained: Int?
    /// Seconds of training, the mean over seeds.
    package var seconds: Double?
    /// Of training, the greatest of its seeds, in bytes; of evaluations where nothing is trained.
    package var peakMemory: Int?
    /// Runs that are done, of all its steps.
    package var done = 0
    /// Failures: the step, its exit code, what it said.
    package var failures: [(step: String, code: Int32, message: String)] = []
    /// Folders of training, by seed, in the sweep's folder.
    package var curves: [String?] = []
    /// The command lines of the first seed.
    package var commands: [String] = []

    package var title: String {
      values.isEmpty ? "all" : values.map { $0.name == "cell" ? $0.text : "\($0.name)=\($0.text)" }.joined(separator: ", ")
    }

    package func values(of figure: String) -> [Double]? { figures.first { $0.name == figure }?.values.compactMap { $0 } }

    /// The mean over seeds; nil where no seed has the figure.
    package func mean(_ figure: String) -> Double? {
      guard let values = values(of: figure), !values.isEmpty else { return nil }
      return values.reduce(0, +) / Double(values.count)
    }

    /// Student's interval of that mean; nil for a single seed.
    package func interval(_ figure: String) -> Interval? { values(of: figure).flatMap { Interval(meanOf: $0) } }
  }

  package var name: String
  package var rows: [Row]
  /// The figures that tables and plots show, in this order.
  package var figures: [String]
  /// By experiment: what varies.
  package var axes: [(experiment: String, names: [String])]
  package var version: String
  package var machine: [(key: String, value: String)]

  package var experiments: [String] { axes.map(\.experiment) }

  package func rows(of experiment: String) -> [Row] { rows.filter { $0.experiment == experiment } }

  /// What the plan's runs are now.
  package init(_ plan: SweepPlan, _ graph: StepGraph, _ states: [StepKey: SweepRunner.State], version: String, machine: [(key: String, value: String)]) {
    (name, self.version, self.machine) = (plan.name, version, machine)
    axes = plan.experiments.map { ($0.name, $0.axes.map(\.name)) }
    let runs = Dictionary(grouping: graph.runs, by: \.cell)
    rows = plan.cells.enumerated().map { place, cell in Self.row(cell, runs[place] ?? [], graph, states) }
    figures = []
    figures = chosen(plan.figures)
  }

  private static func row(_ cell: Cell, _ runs: [StepGraph.Run], _ graph: StepGraph, _ states: [StepKey: SweepRunner.State]) -> Row {
    var row = Row(experiment: cell.experiment, values: cell.values, seeds: cell.seeds)
    var (seconds, said): ([Double], Set<StepKey>) = ([], [])
    for (index, run) in runs.enumerated() {
      var isWhole = true
      row.curves.append(nil)
      for (name, key) in run.steps {
        guard let step = graph.steps[key], let state = states[key] else { continue }
        if case .failed(let failure) = state, said.insert(key).inserted {
          row.failures.append((step.title + (run.seed.map { ", seed \($0)" } ?? ""), failure.code, failure.message))
        }
        guard case .done(let record) = state else {
          isWhole = false
          continue
        }
        if index == 0 { row.commands.append(record.command) }
        if step.verb == (cell.chain.finetune == nil ? .evaluate : .finetune), let peak = record.report["peak_memory"]?.int {
          row.peakMemory = max(row.peakMemory ?? 0, peak)
        }
        let found: [(name: String, value: Double)]
        switch step.verb {
        case .finetune:
          row.trained = record.report["trained"]?.int ?? row.trained
          row.curves[index] = step.folder + "/" + (step.output ?? "")
          seconds.append(record.seconds)
          found = Figures.trained(record.report).map { ("finetune." + $0.name, $0.value) }
        case .evaluate: found = Figures.measured(record.report).map { (name + "." + $0.name, $0.value) }
        case .quantize, .merge: found = []
        }
        for (figure, value) in found {
          if !row.figures.contains(where: { $0.name == figure }) { row.figures.append((figure, Array(repeating: nil, count: runs.count))) }
          if let place = row.figures.firstIndex(where: { $0.name == figure }) { row.figures[place].values[index] = value }
        }
      }
      if isWhole { row.done += 1 }
    }
    if !seconds.isEmpty { row.seconds = seconds.reduce(0, +) / Double(seconds.count) }
    return row
  }

  /// All figures that were found, in the order of the first row that has them.
  package var allFigures: [String] { Self.figures(of: rows) }

  private static func figures(of rows: [Row]) -> [String] {
    var names: [String] = []
    var seen: Set<String> = []
    for row in rows { for figure in row.figures where seen.insert(figure.name).inserted { names.append(figure.name) } }
    return names
  }

  /// Which of the plan's `metrics` nothing that was run has; none as long as nothing has a figure.
  package func unknown(_ wanted: [String]) -> [String] {
    let all = allFigures
    return all.isEmpty ? [] : wanted.filter { Self.meant($0, all).isEmpty }
  }

  /// The figures that a name stands for: `accuracy` is that of every task.
  private static func meant(_ name: String, _ all: [String]) -> [String] {
    all.contains(name) ? [name] : all.filter { $0.hasSuffix("." + name) }
  }

  /// The plan's choice; without one, the usual ones of each experiment.
  private func chosen(_ wanted: [String]) -> [String] {
    let all = allFigures
    guard wanted.isEmpty else { return wanted.flatMap { Self.meant($0, all) } }
    // A task may have other figures in another experiment, though it has the same name.
    let usual = Set(experiments.flatMap { Self.usual(Self.figures(of: rows(of: $0))) })
    return all.filter(usual.contains)
  }

  /// Up to three figures of each task.
  private static func usual(_ all: [String]) -> [String] {
    let tasks = all.filter { !$0.hasPrefix("finetune.") }
    guard !tasks.isEmpty else { return all.filter { $0 == "finetune.loss" || $0 == "finetune.valid_loss" || $0 == "finetune.valid_accuracy" } }
    var counts: [Substring: Int] = [:]
    return tasks.filter { figure in
      let (task, own) = (figure.prefix { $0 != "." }, figure.drop { $0 != "." }.dropFirst())
      // Where a task has figures of its own, the loss is a by-product.
      let hasOthers = tasks.contains { $0.hasPrefix(task + ".") && !$0.hasSuffix(".loss") }
      guard own != "loss" || !hasOthers, !own.contains(".") else { return false }
      counts[task, default: 0] += 1
      return counts[task, default: 0] <= 3
    }
  }
}
