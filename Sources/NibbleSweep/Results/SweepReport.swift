import NibbleCore
import NibblePlots

/// A page of what a sweep or a run of training found.
package enum Report {
  /// - Parameter folder: of a sweep, or what `finetune` wrote
  /// - Throws: `.badInput` for a folder of neither
  package static func page(of folder: String) throws -> String {
    let folder = folder.withoutTrailingSlashes
    guard PathKind(folder) == .folder else { throw NibbleError.badInput("\(path: folder): no folder") }
    if PathKind(folder + "/summary.json") == .file { return try sweep(folder) }
    if PathKind(folder + "/metrics.jsonl") == .file, PathKind(folder + "/run.yaml") == .file { return try run(folder) }
    throw NibbleError.badInput("\(path: folder): neither the folder of a sweep (summary.json) nor of a run (run.yaml, metrics.jsonl)")
  }

  private static func sweep(_ folder: String) throws -> String {
    let results = try SweepResults(summaryIn: folder)
    var page = HTMLPage(results.name)
    page.heading(1, results.name)
    let (done, all) = results.rows.reduce((0, 0)) { ($0.0 + $1.done, $0.1 + $1.seeds.count) }
    page.paragraph("\(results.rows.count) cells, \(done) of \(all) runs done. nibble \(results.version)" + results.machine.map { ", \($0.value)" }.joined() + ".", style: "soft")
    let failures = results.rows.flatMap { row in row.failures.map { "\(row.title): \($0.step): \($0.message) (code \($0.code))" } }
    if !failures.isEmpty {
      page.heading(2, "Failed")
      page.list(failures, style: "bad")
    }
    let (plots, curves) = (SweepPlots(results), SweepPlots(results).curves(in: folder))
    for experiment in results.experiments {
      if results.experiments.count > 1 { page.heading(2, experiment) }
      let (head, body) = results.table(experiment)
      page.table(head, body, texts: max(1, results.columns(of: experiment).count))
      page.pictures(plots.plots(of: experiment))
    }
    if let remark = results.remark { page.paragraph(remark, style: "soft") }
    if !curves.isEmpty {
      page.heading(2, "Training")
      page.pictures(curves)
    }
    page.heading(2, "What was run")
    for row in results.rows where !row.commands.isEmpty {
      page.folded((results.experiments.count > 1 ? row.experiment + ": " : "") + row.title, row.commands.joined(separator: "\n"))
    }
    if let plan = text(folder + "/" + SweepFolder.planName) { page.folded("The plan", plan) }
    return page.text
  }

  private static func run(_ folder: String) throws -> String {
    guard let curve = TrainingCurve(folder) else { throw NibbleError.badInput("\(path: folder + "/metrics.jsonl"): damaged") }
    let name = realPath(folder).split(separator: "/").last.map(String.init) ?? folder
    var page = HTMLPage(name)
    page.heading(1, name)
    var facts: [[String]] = [["steps", "\(curve.losses.count)"]]
    if let last = curve.smoothed.last { facts.append(["loss at the end, smoothed", SweepResults.figure(last)]) }
    if let first = curve.validation.first, let last = curve.validation.last {
      facts.append(["validation loss", (curve.validation.count > 1 ? SweepResults.figure(first.loss) + " → " : "") + SweepResults.figure(last.loss)])
    }
    facts.append(["time of the steps", SweepResults.time(curve.seconds)])
    page.table(["", ""], facts, texts: 1)
    let series = [
      LineChart.Series("each step", curve.losses.enumerated().map { .init(Double($0 + 1), $1) }), LineChart.Series("smoothed", curve.smoothed.enumerated().map { .init(Double($0 + 1), $1) }),
      LineChart.Series("validation", curve.validation.map { .init(Double($0.step), $0.loss) }),
    ].filter { !$0.points.isEmpty }
    if let chart = LineChart("Training loss", across: "step", up: "loss", series, hasMarks: false) {
      page.pictures([Plot(name: "loss", title: "Training loss", svg: chart.svg)])
    }
    if !curve.figures.isEmpty {
      page.heading(2, "Validation")
      let names = curve.figures.first?.figures.map(\.name) ?? []
      let rows = curve.figures.map { one in ["\(one.step)"] + names.map { name in one.figures.first { $0.name == name }.map { SweepResults.figure($0.value) } ?? "" } }
      page.table(["step"] + names, rows, texts: 0)
    }
    page.heading(2, "What was run")
    for file in ["run.yaml", "adapter_config.json"] { if let text = text(folder + "/" + file) { page.folded(file, text) } }
    return page.text
  }

  private static func text(_ path: String) -> String? {
    guard PathKind(path) == .file, let file = try? InputFile(path), let bytes = try? file.bytes(at: 0, count: min(file.size, 1 << 20)) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }
}
