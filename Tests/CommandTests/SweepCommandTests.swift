import Foundation
import NibbleCore
import TestSupport
import Testing

@testable import NibbleSweep
@testable import nibble

@Suite("Sweeps")
struct SweepCommandTests {
  let folder = TemporaryFolder()

  /// A plan of two ranks and two seeds on a packed model, with a model without training beside them.
  func plan(_ more: String = "", steps: Int = 3, seeds: String = "[1, 2]") throws -> String {
    try folder.write("rows.jsonl", (0..<6).map { "{\"prompt\": \"Once \($0)\", \"completion\": \" upon a time\"}\n" }.joined())
    return try folder.write(
      "plan.yaml",
      """
      name: ranks
      quantize: {model: \(stories)}
      finetune: {data: \(folder.file("rows.jsonl")), max-steps: \(steps), batch-size: 2, save-steps: 1, lora-dropout: 0.1}
      seeds: \(seeds)
      evaluate:
        rows: {task: lm, data: \(folder.file("rows.jsonl"))}
        before: {task: lm, data: \(folder.file("rows.jsonl")), on: base}
      \(more.isEmpty ? "grid: {lora-r: [1, 2]}" : more)

      """)
  }

  func sweep(_ more: [String] = [], _ whileRunning: (Process) -> Void = { _ in }) throws -> Program.Result {
    try Program.run(["sweep", folder.file("plan.yaml"), "-o", folder.file("out")] + more, whileRunning: whileRunning)
  }

  func summary(_ place: String = "out") throws -> JSON { try JSON.parse(bytes(of: folder.file(place + "/summary.json"))) }

  /// The numbers of every cell.
  func figures(_ summary: JSON) -> [JSON?] { (summary["cells"]?.array ?? []).map { $0["figures"] } }

  @Test("runs every cell once, writes tables, plots and a page, and has nothing left to do the second time")
  func whole() throws {
    _ = try plan()
    let result = try sweep()
    #expect(result.code == 0, "\(result.errors)")
    // Packing, four trainings, four evaluations, and one of the model that all train on.
    #expect(result.errors.contains("4 runs of 2 cells in 10 steps") && result.output.contains("| lora-r | rows.loss | before.loss | trained | time | memory | runs |"), "\(result.errors)\(result.output)")
    let found = try summary()
    #expect(found["cells"]?.array?.count == 2 && figures(found).allSatisfy { $0?["rows.loss"]?["low"]?.double != nil })
    let names = try FileManager.default.contentsOfDirectory(atPath: folder.file("out")).sorted()
    #expect(names == ["cells", "plan.yaml", "plots", "steps", "summary.csv", "summary.json", "summary.md"])
    #expect(PathKind(folder.file("out/cells/lora-r=2/seed-1/finetune/adapter/adapter_config.json")) == .file)
    #expect(PathKind(folder.file("out/plots/ranks-rows.loss-lora-r.svg")) == .file)
    #expect(try Program.run(["report", folder.file("out")]).code == 0)
    #expect(PathKind(folder.file("out/report.html")) == .file)
    let again = try sweep()
    #expect(again.code == 0 && again.errors.contains("10 of them done before") && again.errorLines.count == 1)
    #expect(try figures(summary()) == figures(found))
    // One more rank is one cell more.
    _ = try plan("grid: {lora-r: [1, 2, 4]}")
    let changed = try sweep()
    #expect(changed.code == 0 && changed.errors.contains("6 runs of 3 cells in 14 steps, 10 of them done before; the plan has changed"), "\(changed.errors)")
  }

  @Test("killed three times, it gives the same table and repeats nothing that was done")
  func killed() throws {
    _ = try plan("", steps: 4, seeds: "[1]")
    #expect(try Program.run(["sweep", folder.file("plan.yaml"), "-o", folder.file("whole"), "-q"]).code == 0)
    func done() -> [String: Date] {
      let steps = (try? FileManager.default.contentsOfDirectory(atPath: folder.file("out/steps"))) ?? []
      return Dictionary(
        uniqueKeysWithValues: steps.compactMap { step in
          let attributes = try? FileManager.default.attributesOfItem(atPath: folder.file("out/steps/\(step)/done.json"))
          return (attributes?[.modificationDate] as? Date).map { (step, $0) }
        })
    }
    var before: [String: Date] = [:]
    for wanted in [1, 3, 5] {
      let result = try sweep(["-q"]) { process in
        while process.isRunning, done().count < wanted { usleep(1000) }
        usleep(30_000)
        kill(process.processIdentifier, SIGKILL)
      }
      #expect(result.signal == SIGKILL || result.code == 0, "\(result.errors)")
      for (step, date) in before { #expect(done()[step] == date) }
      before = done()
    }
    let last = try sweep(["-q", "-j", "1"])
    #expect(last.code == 0, "\(last.errors)")
    for (step, date) in before { #expect(done()[step] == date) }
    // One thread or several: the same numbers.
    #expect(try figures(summary()) == figures(summary("whole")))
  }

  @Test("terminated, it ends its runs, keeps what is done and says how to go on")
  func terminated() throws {
    _ = try plan("", steps: 2000)
    let result = try sweep { process in
      while process.isRunning, !FileManager.default.fileExists(atPath: folder.file("out/cells")) { usleep(1000) }
      usleep(700_000)
      process.terminate()
    }
    #expect(result.code == 143 && result.errors.contains("steps left; the same command goes on"), "\(result.errors)")
    #expect(try summary()["cells"]?.array?.count == 2)
  }

  @Test("a cell that fails does not stop the others, and its code is the sweep's")
  func failing() throws {
    _ = try plan("cells: {good: {}, bad: {evaluate.data: \(folder.write("bad.jsonl", "{\"x\": 1}"))}}", seeds: "[1]")
    let result = try sweep(["-q"])
    #expect(result.code == 3 && result.errorLines.count == 1 && result.errors.contains("steps failed; the first is evaluate rows"), "\(result.errors)")
    let cells = try #require(try summary()["cells"]?.array)
    #expect(cells[0]["done"]?.int == 1 && cells[1]["done"]?.int == 0 && cells[1]["failures"]?.array?.isEmpty == false)
    #expect(try Program.run(["report", folder.file("out"), "-o", folder.file("r.html")]).code == 0)
    #expect(try String(decoding: bytes(of: folder.file("r.html")), as: UTF8.self).contains("<h2>Failed</h2>"))
  }

  @Test("a dry run prints cells, commands and memory, and writes nothing")
  func dry() throws {
    _ = try plan()
    let result = try sweep(["--dry-run"])
    #expect(result.code == 0 && result.output.contains("lora-r=1: 2 seeds, ") && result.output.contains("nibble finetune ") && result.output.contains("of memory"), "\(result.errors)\(result.output)")
    #expect(PathKind(folder.file("out")) == .nothing)
    let document = try JSON.parse(Program.run(["sweep", folder.file("plan.yaml"), "--dry-run", "--json"]).output)
    #expect(document["steps"]?.array?.count == 10 && document["runs"]?.int == 4)
  }

  @Test(
    "what is wrong is found before anything runs",
    arguments: [
      ("grid: {lora-rr: [1]}", 2, "plan.yaml:8: lora-rr: unknown option --lora-rr; did you mean --lora-r?"), ("grid: {lora-r: [x]}", 2, "plan.yaml:8: finetune: "),
      ("grid: {lora-r: [0]}", 2, "plan.yaml:8: finetune: --lora-r 0 is not from 1"), ("grid: {target-modules: [q_porj]}", 2, "plan.yaml:8: finetune: "),
      ("grid: {data: [none.jsonl]}", 3, "plan.yaml:8: data: 'none.jsonl': no such file"), ("grid: {evaluate.task: [magic]}", 2, "plan.yaml:6: evaluate rows: "),
      ("grid: {no-shuffle: [maybe]}", 2, "plan.yaml:8: no-shuffle: a switch is true or false"), ("grid: {lora-r: [[1, 2]]}", 2, "plan.yaml:8: lora-r: takes one value, not a list of 2"),
      ("a: *b", 2, "plan.yaml: line"), ("variables: {X: }", 2, "plan.yaml:8: X: the variable has no value; --set X=VALUE gives it one"),
    ])
  func wrong(_ more: String, _ code: Int32, _ expected: String) throws {
    _ = try plan(more)
    let result = try sweep(["-q"])
    #expect(result.code == code && result.errorLines.count == 1 && result.errors.contains(expected), "\(result.errors)")
    // At most the model is packed, where only that shows what is wrong.
    let steps = (try? FileManager.default.contentsOfDirectory(atPath: folder.file("out/steps"))) ?? []
    #expect(!steps.contains { PathKind(folder.file("out/steps/\($0)/adapter")) != .nothing })
  }

  @Test("two sweeps do not write into one folder, and none into a folder of something else")
  func held() throws {
    _ = try plan()
    try folder.write("out/file", "mine")
    #expect(try sweep(["-q"]).errors.contains("holds 'file', and is no folder of a sweep"))
    try FileManager.default.removeItem(atPath: folder.file("out"))
    try FileManager.default.createDirectory(atPath: folder.file("out"), withIntermediateDirectories: true)
    let lock = open(folder.file("out"), O_RDONLY | O_DIRECTORY)
    defer { close(lock) }
    #expect(flock(lock, LOCK_EX) == 0)
    let result = try sweep(["-q"])
    #expect(result.code == 2 && result.errors.contains("is being written by another process"), "\(result.errors)")
  }

  @Test("a page of one run of training")
  func run() throws {
    _ = try plan()
    let words = ["finetune", stories, folder.file("rows.jsonl"), "-o", folder.file("run"), "--max-steps", "2", "--valid", folder.file("rows.jsonl"), "-q"]
    #expect(try Program.run(words).code == 0)
    #expect(try Program.run(["report", folder.file("run")]).output == folder.file("run/report.html") + "\n")
    #expect(try String(decoding: bytes(of: folder.file("run/report.html")), as: UTF8.self).contains("<h2>Validation</h2>"))
    // The page is no stranger in the folder.
    #expect(try Program.run(words + ["--force"]).code == 0)
    #expect(try Program.run(["report", folder.path]).code == 3)
    #expect(try Program.run(["report", folder.file("run"), "-o", folder.file("rows.jsonl")]).code == 2)
  }

  static let recipes = fixtures.deletingLastPathComponent().deletingLastPathComponent().appendingPathComponent("recipes").path

  @Test("recipes are plans whose every command parses", arguments: ["classification", "labels", "e2e-ranks", "glue", "layers"])
  func recipe(_ name: String) throws {
    let (path, spelling) = ("\(Self.recipes)/\(name).yaml", PlanSpelling())
    let text = String(decoding: try bytes(of: path), as: UTF8.self)
    guard case .mapping(let keys)? = try YAML.parse(text, place: path), case .mapping(let variables)? = keys.first(where: { $0.key == "variables" })?.value else {
      Issue.record("no variables")
      return
    }
    let given = variables.filter { if case .scalar("") = $0.value { true } else { false } }
    let plan = try SweepPlan(path, variables: Dictionary(uniqueKeysWithValues: given.map { ($0.key, "file") })) { try spelling.name($0, $1) }
    let graph = try StepGraph(plan, path: path, keepsAnswers: EvaluateCommand.keepsAnswers)
    try PlanCheck(path, graph, spelling, threads: 1).checkWords()
    #expect(graph.runs.count > 5)
  }
}
