import NibbleCore
import NibblePlots
import TestSupport
import Testing

@testable import NibbleSweep

/// Tags of XML or HTML, each closed by its own; throws where they are not.
struct Tags {
  struct Unbalanced: Error { let tag: String }
  private(set) var count = 0
  private static let void: Set = ["meta", "img", "br"]

  init(_ text: String) throws {
    var open: [String] = []
    var rest = text[...]
    while let start = rest.firstIndex(of: "<") {
      guard let end = rest[start...].firstIndex(of: ">") else { throw Unbalanced(tag: String(rest[start...].prefix(40))) }
      let tag = rest[rest.index(after: start)..<end]
      rest = rest[rest.index(after: end)...]
      let name = String(tag.drop { $0 == "/" }.prefix { $0.isLetter || $0.isNumber || $0 == "-" })
      if tag.hasPrefix("!") { continue }
      if tag.hasPrefix("/") { guard open.popLast() == name else { throw Unbalanced(tag: name) } } else if !tag.hasSuffix("/"), !Self.void.contains(name) { open.append(name) }
      guard tag.count(where: { $0 == "\"" }) % 2 == 0 else { throw Unbalanced(tag: String(tag)) }
      count += 1
    }
    guard open.isEmpty else { throw Unbalanced(tag: open.joined(separator: " ")) }
  }
}

@Suite("What a sweep found")
struct ResultTests {
  /// Results of a plan in which `value` says what the steps of a cell and seed measured.
  static func results(_ text: String, fail: String = "", value: (Cell, Int) -> Double) throws -> SweepResults {
    let plan = try plan(text)
    let graph = try StepGraph(plan, path: "p")
    var states: [StepKey: SweepRunner.State] = [:]
    for run in graph.runs {
      for (name, key) in run.steps {
        let number = value(plan.cells[run.cell], run.seed ?? 0)
        let report: JSON = name == "finetune" ? ["loss": JSON(number), "trained": 10, "peak_memory": 1_000_000] : ["task": "x", "rows": 7, "accuracy": JSON(number), "loss": 1, "seconds": 3]
        states[key] =
          plan.cells[run.cell].title == fail && name != "finetune"
          ? .failed(.init(code: 3, message: "no <b>file</b>")) : .done(StepRecord(command: "nibble \(name) '<a>'", version: "1", seconds: 2, report: report))
      }
    }
    return SweepResults(plan, graph, states, version: "1", machine: [("processor", "a & b")])
  }

  static let grid = "name: x\nfinetune: {base: B, data: D}\ngrid: {lora-r: [1, 2, 4, 8], target-modules: [attention, all-linear]}\nseeds: [1, 2]\nevaluate: {dev: {task: lm, data: E}}"

  @Test("time left is that of steps of the same kind, trainings by their length")
  func pace() throws {
    let graph = try StepGraph(plan("name: x\nfinetune: {base: B, data: D}\ngrid: {lora-r: [1, 2]}\nevaluate: {dev: {task: lm, data: E}}"), path: "p")
    let (trained, others) = (graph.runs.compactMap { $0.step("finetune") }, graph.runs.compactMap { $0.step("dev") })
    var states = Dictionary(uniqueKeysWithValues: graph.order.map { ($0, SweepRunner.State.waiting) })
    let pace = SweepPace(graph, trainingSteps: [trained[0]: 10, trained[1]: 30])
    #expect(pace.left(states, jobs: 1) == nil)
    func done(_ seconds: Double) -> SweepRunner.State { .done(StepRecord(command: "", version: "1", seconds: seconds, report: .object([]))) }
    states[others[0]] = done(2)
    #expect(pace.left(states, jobs: 1) == nil, "an evaluation says nothing of trainings")
    states[others[0]] = .waiting
    states[trained[0]] = done(20)
    // 60 s of training, and two evaluations as long as what is known.
    #expect(pace.left(states, jobs: 1) == 100 && pace.left(states, jobs: 2) == 50)
    states[others[0]] = done(2)
    #expect(pace.left(states, jobs: 1) == 62 && pace.left(states, jobs: 9) == 31)
  }

  @Test("each experiment shows figures of its own, though tasks have the same names")
  func experiments() throws {
    let text = "name: x\nfinetune: {base: B, data: D}\nexperiments: {pairs: {evaluate: {dev: {task: pairs, data: E}}}, numbers: {evaluate: {dev: {task: regression, data: E}}}}"
    let plan = try plan(text)
    let graph = try StepGraph(plan, path: "p")
    var states: [StepKey: SweepRunner.State] = [:]
    for run in graph.runs {
      let isPairs = plan.cells[run.cell].experiment == "pairs"
      let figures = try JSON.parse(
        isPairs ? #"{"loss": 1, "accuracy": 0.5, "f1": 0.25, "f1_macro": 0.75}"# : #"{"loss": 1, "pearson": 0.5, "spearman": 0.25}"#)
      for (_, key) in run.steps { states[key] = .done(StepRecord(command: "", version: "1", seconds: 1, report: figures)) }
    }
    let found = SweepResults(plan, graph, states, version: "1", machine: [])
    #expect(Set(found.figures) == ["dev.accuracy", "dev.f1", "dev.f1_macro", "dev.pearson", "dev.spearman"])
    #expect(found.markdown.contains("| dev.pearson | dev.spearman |"))
  }

  @Test("means with Student's interval, of two seeds too")
  func intervals() throws {
    let found = try Self.results(Self.grid) { cell, seed in seed == 1 ? 0.5 : 0.7 }
    #expect(found.figures == ["dev.accuracy"] && found.rows.count == 8)
    let interval = try #require(found.rows[0].interval("dev.accuracy"))
    // t of one degree of freedom is 12.706; the standard error is 0.1.
    #expect(abs(interval.high - 0.6 - 1.27062047) < 1e-6 && abs(interval.low - 0.6 + 1.27062047) < 1e-6)
    #expect(found.markdown.contains("| 1 | attention | 0.600 ± 1.271 | 10 | 2.0 s | 1.00 MB | 2 of 2 |"), "\(found.markdown)")
    #expect(found.csv.hasPrefix("experiment,lora-r,target-modules,finetune.loss,") && found.csv.split(separator: "\n").count == 9)
  }

  @Test("the summary as JSON is read back as it was")
  func json() throws {
    let folder = TemporaryFolder()
    let found = try Self.results(Self.grid, fail: "lora-r=4, target-modules=attention") { cell, seed in Double(seed) / 3 }
    try folder.write("summary.json", found.json.text())
    let read = try SweepResults(summaryIn: folder.path)
    #expect(read.json == found.json && read.markdown == found.markdown && read.csv == found.csv)
    for text in ["", "{}", "[1]", "{\"name\": 1}"] {
      try folder.write("summary.json", text)
      #expect(throws: NibbleError.self) { try SweepResults(summaryIn: folder.path) }
    }
  }

  @Test("a plan's metrics choose what is shown, for every task that has them")
  func chosen() throws {
    let found = try Self.results(Self.grid + "\nmetrics: [loss, dev.accuracy, none.such]") { _, _ in 1 }
    #expect(found.figures == ["finetune.loss", "dev.loss", "dev.accuracy"])
    #expect(found.unknown(["loss", "dev.accuracy", "none.such", "acurracy"]) == ["none.such", "acurracy"])
  }

  @Test("a page that needs nothing else, with everything escaped")
  func page() throws {
    let folder = TemporaryFolder()
    let text = Self.grid.replacing("name: x", with: "name: '<script>alert(1)</script> & \"x\"'")
    let found = try Self.results(text, fail: "lora-r=4, target-modules=attention") { cell, seed in Double(seed + cell.line) }
    try folder.write("summary.json", found.json.text())
    try folder.write("plan.yaml", "# </pre><script>\n")
    let page = try Report.page(of: folder.path)
    _ = try Tags(page.replacing(#/<style>(.|\n)*?<\/style>/#, with: ""))
    #expect(!page.contains("<script") && !page.contains("http:") && page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;x&quot;"))
    #expect(page.contains("no &lt;b&gt;file&lt;/b&gt; (code 3)") && page.contains("data:image/svg+xml;base64,") && page.contains("a &amp; b"))
    #expect(throws: NibbleError.self) { try Report.page(of: TemporaryFolder().path) }
  }
}

@Suite("Plots")
struct PlotTests {
  @Test(
    "lines over each numeric option, bars of the rest, a picture for each combination of what is left",
    arguments: [
      ("grid: {lora-r: [1, 2, 4], target-modules: [a, b]}", ["dev.accuracy over lora-r"]), ("grid: {lora-r: [1, 2], lora-alpha: [1, 2]}", ["dev.accuracy over lora-r", "dev.accuracy over lora-alpha"]),
      ("cells: {one: {lora-r: 1}, two: {lora-r: 2}}", ["dev.accuracy"]), ("cells: {one: {}, two: {x: 1}}\ngrid: {target-modules: [a, b]}", ["dev.accuracy"]),
      ("cells: {one: {}, two: {x: 1}}\ngrid: {lora-r: [1, 2], target-modules: [a, b]}", ["dev.accuracy over lora-r, target-modules a", "dev.accuracy over lora-r, target-modules b"]),
      ("grid: {lora-r: [1]}", []),
    ])
  func kinds(_ vary: String, _ titles: [String]) throws {
    let found = try ResultTests.results("finetune: {base: B, data: D}\nseeds: [1, 2]\nevaluate: {dev: {task: lm}}\n" + vary) { cell, seed in Double(cell.title.count * seed) }
    let plots = SweepPlots(found).plots()
    #expect(plots.map(\.title) == titles && Set(SweepPlots.named(plots + plots).map(\.name)).count == 2 * plots.count)
    for plot in plots { #expect(try Tags(plot.svg).count > 20 && !plot.svg.contains("nan") && !plot.svg.contains("inf")) }
  }

  @Test("labels that are far too long, and hostile ones, stay inside")
  func hostile() throws {
    let long = String(repeating: "model.layers.[0-9]+.(self_attn|mlp) ", count: 20) + "<&\"'"
    let chart = try #require(BarChart(long, across: long, series: [long, "b"], [(long, [.init(1, bounds: -1e300...1e300, label: long), nil]), ("x", [.init(.nan, label: ""), .init(-2, label: "2")])]))
    let lines = try #require(LineChart(long, across: long, up: long, (0..<12).map { .init(long + "\($0)", [.init(1, 1e-9), .init(.infinity, 2), .init(3, 1e9, bounds: -1e308...1e308)]) }))
    for svg in [chart.svg, lines.svg] {
      _ = try Tags(svg)
      let numbers = svg.matches(of: #/ (?:x|y|cx|cy|x1|x2|y1|y2)="(?<n>[-0-9.e]+)"/#).compactMap { Double($0.output.n) }
      #expect(numbers.count > 30 && numbers.allSatisfy { $0 > -30 && $0 < 900 }, "\(numbers.filter { $0 < -30 || $0 > 900 })")
    }
    #expect(LineChart("", across: "", up: "", [.init("", [.init(.nan, 1)])]) == nil && BarChart("", across: "", []) == nil)
  }

  @Test("an axis of powers goes by factors, of steps by steps", arguments: [([1.0, 2, 4, 8], true), ([1e-5, 1e-4, 1e-3], true), ([1, 2, 3, 4, 5], false), ([0, 1, 10, 100], false), ([0.1, 0.5, 0.9], false)])
  func powers(_ places: [Double], _ expected: Bool) {
    #expect(LineChart("t", across: "x", up: "y", [.init("", places.map { .init($0, 1) })])?.isLogarithmic == expected)
  }
}
