import NibbleCore
import NibbleSweep

/// Checks every command of a plan before any of them runs: the words by the program's own parser, the rest by the verbs' own plans.
struct PlanCheck {
  let path: String
  let graph: StepGraph
  let spelling: PlanSpelling
  let threads: Int
  /// Whether the first steps of each training are timed.
  let times: Bool
  /// What the plans of verbs say, by step.
  private(set) var plans: [StepKey: JSON] = [:]
  /// What a plan could not say yet, because its base is not packed yet.
  private(set) var unsure: [(step: Step, message: String)] = []

  init(_ path: String, _ graph: StepGraph, _ spelling: PlanSpelling, threads: Int, times: Bool = false) {
    (self.path, self.graph, self.spelling, self.threads, self.times) = (path, graph, spelling, threads, times)
  }

  private func fail(_ step: Step, _ kind: NibbleError.Kind, _ text: MessageText) -> NibbleError {
    NibbleError(kind, "\(path: "\(path):\(step.line)"): \(key: step.title): " + text)
  }

  /// Parses every command.
  func checkWords() throws {
    for key in graph.order {
      guard let step = graph.steps[key] else { continue }
      do {
        let words = try spelling.words(step, { graph.steps[$0].map { "steps/\($0.folder)/\($0.output ?? "")" } ?? "" }, Self.outputWords(step))
        try Self.parse(words)
      } catch let problem as PlanProblem {
        throw problem.error(in: path)
      } catch let error as NibbleError {
        throw fail(step, error.kind, error.text)
      } catch {
        throw fail(step, .usage, "\(Nibble.message(for: error).split { $0 == "\n" || $0 == " " }.joined(separator: " "))")
      }
    }
  }

  /// Looks for the files that options name.
  func checkFiles() throws {
    for step in graph.order.compactMap({ graph.steps[$0] }) {
      for option in step.options where Self.files.contains(option.name) {
        guard let text = option.text, PathKind(text) == .nothing, try HubCache.snapshot(text) == nil else { continue }
        throw NibbleError.badInput("\(path: "\(path):\(option.line)"): \(key: option.name): \(quoted(text)): no such file")
      }
    }
  }

  /// Where a step writes, from the sweep's folder.
  static func outputWords(_ step: Step) -> [String] {
    step.output.map { [step.verb == .evaluate ? "--predictions" : "-o", "steps/\(step.folder)/\($0)"] } ?? []
  }

  /// Options that name a file or a folder that must be there.
  private static let files: Set = ["model", "base", "data", "valid", "eval-data", "init-adapter", "tokenizer", "calibration", "statistics", "compare-to", "exemplars", "label-list", "wordnet", "paraphrases"]

  private static func parse(_ words: [String]) throws {
    let before = Arguments.words
    defer { Arguments.words = before }
    Arguments.words = words
    let command = try Nibble.parse(words)
    try (command as? FinetuneCommand)?.check()
  }

  mutating func plan(in folder: SweepFolder) throws { try plan(folder.records(graph), in: folder.path) }

  /// Asks the verbs for their plans: of packing, and of training that is not done.
  ///
  /// Steps of training that differ in the seed alone are asked once. Where the base is still to be packed, the model that it is packed from
  /// stands for it: memory is corrected by the sizes, and what is refused only may be wrong.
  ///
  /// - Parameters:
  ///   - records: of the steps that are done
  ///   - folder: of the sweep
  mutating func plan(_ records: [StepKey: StepRecord] = [:], in folder: String = "") throws {
    func output(_ step: Step) -> String { "\(folder)/steps/\(step.folder)/\(step.output ?? "")" }
    /// What was done may have been removed since.
    func isThere(_ key: StepKey) -> Bool { records[key] != nil && graph.steps[key].map { PathKind(output($0)) != .nothing } ?? false }
    unsure = []
    var asked: [[String]: Result<JSON, NibbleError>] = [:]
    for key in graph.order {
      guard let step = graph.steps[key], step.verb == .quantize || step.verb == .finetune else { continue }
      if let record = records[key] {
        plans[key] = record.report.setting("trained_parameters", to: record.report["trained"] ?? .null)
        continue
      }
      try Interrupt.check()
      var standIn: Step?
      let seedless = step.options.filter { $0.name != "seed" }
      let words = try spelling.words(
        Step(copying: step, options: seedless),
        { need in
          guard let before = graph.steps[need] else { return "" }
          if isThere(need) { return output(before) }
          standIn = before
          return before.options["model"]?.text ?? ""
        }, ["--dry-run", "--json", "-q", "--threads", "\(threads)"] + (times && step.verb == .finetune ? ["--time"] : []))
      let found: Result<JSON, NibbleError>
      if let known = asked[words] { found = known } else {
        found = try Self.ask(words)
        asked[words] = found
      }
      switch found {
      case .success(let json): plans[key] = standIn.flatMap { plans[$0.key] }.map { Self.corrected(json, $0) } ?? json
      case .failure(let error):
        guard standIn == nil else {
          unsure.append((step, error.message))
          continue
        }
        throw fail(step, error.kind, error.text)
      }
    }
  }

  private static func ask(_ words: [String]) throws -> Result<JSON, NibbleError> {
    let done = try OwnProgram(words)
    guard done.code == 0, let json = try? JSON.parse(Array(done.output.utf8)) else {
      return .failure(NibbleError(NibbleError.Kind(rawValue: done.code) ?? .failed, "\(done.reason)"))
    }
    return .success(json)
  }

  /// The plan of training on a model, as it is on what the model is packed to.
  private static func corrected(_ plan: JSON, _ packing: JSON) -> JSON {
    guard let peak = plan["peak_memory"]?.int, let weights = plan["weights"]?.int, let packed = packing["bytes_out"]?.int else { return plan }
    return plan.setting("peak_memory", to: JSON(max(0, peak - weights + packed))).setting("weights", to: JSON(packed))
  }

  /// Bytes that each step takes: packing and training as planned, merging and evaluating as much as the most of the same run, and no less than the model that is packed.
  var memory: [StepKey: Int] {
    var needs = plans.compactMapValues { $0["peak_memory"]?.int }
    for run in graph.runs {
      guard let most = run.steps.compactMap({ needs[$0.key] }).max() else { continue }
      let model = run.steps.compactMap { plans[$0.key]?["bytes_out"]?.int }.max() ?? 0
      for step in run.steps where plans[step.key] == nil { needs[step.key] = max(needs[step.key] ?? 0, most, model) }
    }
    return needs
  }
}
