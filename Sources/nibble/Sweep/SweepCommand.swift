import ArgumentParser
import Glibc
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant
import NibbleSweep

struct SweepCommand: ParsableCommand {
  static let configuration = CommandConfiguration(
    commandName: "sweep",
    abstract: "Train and measure many variants from one plan, and write tables and plots.",
    discussion: """
      A plan is a YAML file: options of quantize, finetune and merge, named tasks of evaluate, a grid or named cells that say what varies, and seeds. \
      docs/guide/sweep.md describes it. Each run is one of this program's verbs, in a folder of its own with its log. What is done is never \
      repeated: after an interruption the same command goes on, and a changed plan runs only what is new.
      """)

  @Argument(help: "The plan.") var plan: String
  @Option(name: .shortAndLong, help: "The folder to write: runs, summary.md, summary.csv, summary.json, plots.") var output: String?
  @Option(parsing: .singleValue, help: ArgumentHelp("Give a variable of the plan a value; can be repeated.", valueName: "NAME=VALUE")) var set: [String] = []
  @Option(help: "Runs at once (default: as many as cores and memory allow).") var jobs: Int?
  @Option(help: ArgumentHelp("Memory for all runs together (default: most of what is free).", valueName: "bytes")) var maxMemory: String?
  @Flag(help: "Print cells, commands and memory, and run nothing.") var dryRun = false
  @Flag(help: "With --dry-run: also time the first steps of each training, and print how long all of them take.") var time = false
  @OptionGroup var common: CommonOptions

  func validate() throws {
    if let jobs, !(1...1024).contains(jobs) { throw ValidationError("--jobs must be from 1 to 1024") }
    if let maxMemory, parseBytes(maxMemory) == nil { throw ValidationError("--max-memory '\(maxMemory)' is not a size such as 8GB") }
  }

  func run() throws {
    let spelling = PlanSpelling()
    let read = try SweepPlan(plan, variables: try variables()) { try spelling.name($0, $1) }
    let graph = try StepGraph(read, path: plan, keepsAnswers: EvaluateCommand.keepsAnswers)
    if !dryRun { common.warnIgnored(["--time"], "this is no plan; time left is shown while the sweep runs") }
    var check = PlanCheck(plan, graph, spelling, threads: common.workers, times: time && dryRun)
    try check.checkWords()
    try check.checkFiles()
    guard let output else {
      guard dryRun else { throw NibbleError.usage("-o is needed: the folder to write") }
      try check.plan()
      return try SweepListing(plan: read, graph: graph, check: check, spelling: spelling, jobs: jobs(check), budget: budget).print(json: common.json) { _ in nil }
    }
    if dryRun {
      let records = SweepFolder.records(graph, in: output)
      try check.plan(records, in: output)
      return try SweepListing(plan: read, graph: graph, check: check, spelling: spelling, jobs: jobs(check), budget: budget).print(json: common.json) { records[$0] }
    }
    let folder = try SweepFolder(output)
    do { try check.plan(in: folder) } catch {
      folder.discardIfNew()
      throw error
    }
    let before = folder.earlierPlan()
    try folder.begin(read, graph)
    let runner = SweepRunner(graph, in: folder, version: nibbleVersion, words: { try Self.words($0, spelling) }, spelled: { "nibble " + $0.map(shellWord).joined(separator: " ") })
    (runner.jobs, runner.threads, runner.memory, runner.needs) = (jobs(check), common.workers, budget, check.memory)
    tellBefore(before != nil && before != read.text, folder, graph, runner)
    var progress: SweepProgress {
      SweepProgress(plan: read, graph: graph, folder: folder, runner: runner, trainingSteps: check.plans.compactMapValues { $0["steps"]?.int }, isQuiet: common.quiet)
    }
    if !check.unsure.isEmpty {
      // Packed, they can be asked: nothing is trained before every command is known to be good.
      try progress.run(only: [.quantize])
      try check.plan(in: folder)
      runner.needs = check.memory
    }
    try progress.run()
    let results = SweepResults(read, graph, runner.states, version: nibbleVersion, machine: Self.machine)
    if common.json { try StandardOutput.print(results.json) } else { try StandardOutput.write(results.markdown) }
    try StandardOutput.flush()
    for name in results.unknown(read.figures) {
      common.warn([Warning(.unused, "\(path: plan): metrics: \(quoted(oneLine(name))) is a figure of no run; there are \(results.allFigures.joined(separator: ", "))")])
    }
    try report(runner, graph, output)
  }

  /// NAME=VALUE of `--set`.
  private func variables() throws -> [String: String] {
    try set.reduce(into: [:]) { all, text in
      guard let equals = text.firstIndex(of: "="), equals != text.startIndex else { throw NibbleError.usage("--set \(quoted(text)) is not NAME=VALUE") }
      all[String(text[..<equals])] = String(text[text.index(after: equals)...])
    }
  }

  private static func words(_ call: StepCall, _ spelling: PlanSpelling) throws -> [String] {
    var more: [String] = []
    switch (call.step.verb, call.output) {
    case (.finetune, let output?): more = ["-o", output] + (call.replaces ? [call.continues ? "--resume" : "--force"] : [])
    case (.evaluate, let output?):
      // Whole, but without a report.
      if call.replaces { unlink(output) }
      more = ["--predictions", output] + (EvaluateCommand.resumes(call.step.options["task"]?.text) ? ["--resume"] : [])
    case (_, let output?): more = ["-o", output, "--resume"] + (call.replaces ? ["--force"] : [])
    case (_, nil): break
    }
    return try spelling.words(call.step, { call.inputs[$0] ?? "" }, more + ["--json", "-q", "--threads", "\(call.threads)"])
  }

  /// Bytes for all runs together.
  private var budget: Int {
    if let maxMemory, let bytes = parseBytes(maxMemory) { return bytes }
    let free = min(Machine.availableMemory ?? Machine.memory, Machine.memoryLimit ?? Machine.memory)
    return free / 5 * 4
  }

  /// As many runs as there are cores, if the largest of them fit into memory so many times.
  private func jobs(_ check: PlanCheck) -> Int {
    if let jobs { return jobs }
    let greatest = max(1, check.memory.values.max() ?? 1)
    return max(1, min(common.workers, budget / greatest, check.graph.runs.count))
  }

  static var machine: [(key: String, value: String)] {
    [("processor", "\(Processor.current.name), \(availableCores) cores"), ("memory", byteText(Machine.memory)), ("system", Machine.system)]
  }

  private func tellBefore(_ isChanged: Bool, _ folder: SweepFolder, _ graph: StepGraph, _ runner: SweepRunner) {
    guard !common.quiet else { return }
    let (left, others) = (runner.left, folder.others(than: graph).count)
    let done = graph.order.count - left
    var text = "\(graph.runs.count) runs of \(Set(graph.runs.map(\.cell)).count) cells in \(graph.order.count) steps"
    if done > 0 { text += ", \(done) of them done before" }
    if isChanged { text += "; the plan has changed" }
    if others > 0 { text += "; \(others) steps of earlier plans stay in \(folder.path)/steps" }
    write("nibble: \(oneLine(text)); \(min(runner.jobs, max(left, 1))) at once\n", to: 2)
  }

  /// Ends with the code of the first failure in the order of the plan.
  private func report(_ runner: SweepRunner, _ graph: StepGraph, _ output: String) throws {
    let failed = graph.order.compactMap { key -> (Step, SweepRunner.Failure)? in
      guard let step = graph.steps[key], case .failed(let failure)? = runner.states[key] else { return nil }
      return (step, failure)
    }
    guard let (step, failure) = failed.first else { return }
    throw NibbleError(
      NibbleError.Kind(rawValue: failure.code) ?? .failed,
      "\(path: output): \(failed.count) of \(graph.order.count) steps failed; the first is \(step.title), steps/\(step.folder): \(failure.message)")
  }
}
