import Glibc
import NibbleCore
import NibbleEvaluation

/// The summary as Markdown, CSV and JSON.
extension SweepResults {
  /// Columns that say what varies, of rows that have the same.
  package func columns(of experiment: String) -> [String] {
    var names: [String] = []
    for row in rows(of: experiment) { for value in row.values where !names.contains(value.name) { names.append(value.name) } }
    return names
  }

  /// `0.813 ± 0.013`: with two digits of the interval, and no fewer than three of the mean.
  package static func text(_ mean: Double?, _ interval: Interval?) -> String {
    guard let mean else { return "" }
    guard let interval else { return figure(mean) }
    let reach = (interval.high - interval.low) / 2, size = abs(mean)
    guard reach > 0 else { return figure(mean) + " ± 0" }
    let least = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3
    let places = min(6, max(least, 1 - Int(max(-20, min(20, log10(reach).rounded(.down))))))
    return "\(decimal(mean, places)) ± \(decimal(reach, places))"
  }

  /// A number alone: four digits that count.
  package static func figure(_ value: Double) -> String {
    guard value.isFinite else { return "\(value)" }
    let size = abs(value)
    return decimal(value, size >= 1000 ? 1 : size >= 100 ? 2 : size >= 10 ? 3 : 4)
  }

  static func time(_ seconds: Double?) -> String {
    seconds.map { $0 < 100 ? "\(decimal($0, 1)) s" : $0 < 6000 ? "\(decimal($0 / 60, 1)) min" : "\(decimal($0 / 3600, 1)) h" } ?? ""
  }

  /// Headings and cells of a table, as text.
  package func table(_ experiment: String) -> (head: [String], body: [[String]]) {
    let (columns, rows) = (columns(of: experiment), rows(of: experiment))
    let shown = figures.filter { figure in rows.contains { $0.mean(figure) != nil } }
    let hasTraining = rows.contains { $0.trained != nil }
    let head = (columns.isEmpty ? ["cell"] : columns) + shown + (hasTraining ? ["trained", "time"] : []) + ["memory", "runs"]
    let body = rows.map { row -> [String] in
      let names = columns.isEmpty ? ["all"] : columns.map { name in row.values.first { $0.name == name }?.text ?? "" }
      let figures = shown.map { Self.text(row.mean($0), row.interval($0)) }
      let training = hasTraining ? [row.trained.map { "\($0)" } ?? "", Self.time(row.seconds)] : []
      let runs = "\(row.done) of \(row.seeds.count)" + (row.failures.isEmpty ? "" : ", failed")
      return names + figures + training + [row.peakMemory.map(byteText) ?? "", runs]
    }
    return (head, body)
  }

  /// What the intervals are, in a sentence; nil where there are none.
  package var remark: String? {
    rows.contains { $0.seeds.count > 1 } ? "Means over seeds, ± half of the 95 % interval (Student's t). Time is the mean of the training steps; memory is the greatest of the seeds." : nil
  }

  package var markdown: String {
    func cell(_ text: String) -> String { oneLine(text).replacing("\\", with: "\\\\").replacing("|", with: "\\|") }
    func line(_ cells: [String]) -> String { "| " + cells.map(cell).joined(separator: " | ") + " |\n" }
    var text = "# \(oneLine(name))\n"
    for experiment in experiments {
      if experiments.count > 1 { text += "\n## \(oneLine(experiment))\n" }
      let (head, body) = table(experiment)
      text += "\n" + line(head) + line(head.map { _ in "---" }) + body.map(line).joined()
    }
    if let remark { text += "\n\(remark)\n" }
    let failures = rows.flatMap { row in row.failures.map { "- \(row.title): \($0.step): \($0.message) (code \($0.code))\n" } }
    if !failures.isEmpty { text += "\nFailed:\n\n" + failures.map { oneLine(String($0.dropLast())) + "\n" }.joined() }
    text += "\nnibble \(version)" + machine.map { ", \(oneLine($0.value))" }.joined() + ".\n"
    return text
  }

  /// A line for each cell, with every figure: mean, bounds, and the number of each seed.
  package var csv: String {
    func cell(_ text: String) -> String {
      let text = oneLine(text)
      return text.contains { ",\"".contains($0) } ? "\"" + text.replacing("\"", with: "\"\"") + "\"" : text
    }
    func number(_ value: Double?) -> String { value.map { "\($0)" } ?? "" }
    var names: [String] = []
    for experiment in experiments { for column in columns(of: experiment) where !names.contains(column) { names.append(column) } }
    let (all, seeds) = (allFigures, rows.map(\.seeds.count).max() ?? 0)
    var head = ["experiment"] + names
    for figure in all { head += [figure, figure + " low", figure + " high"] + (seeds > 1 ? (0..<seeds).map { "\(figure) #\($0 + 1)" } : []) }
    head += ["seeds", "trained", "seconds", "peak_memory", "done", "failed"]
    let lines = rows.map { row -> [String] in
      var cells = [row.experiment] + names.map { name in row.values.first { $0.name == name }?.text ?? "" }
      for figure in all {
        let (interval, each) = (row.interval(figure), row.figures.first { $0.name == figure }?.values ?? [])
        cells += [number(row.mean(figure)), number(interval?.low), number(interval?.high)]
        if seeds > 1 { cells += (0..<seeds).map { number($0 < each.count ? each[$0] : nil) } }
      }
      cells.append(row.seeds.map { $0.map { "\($0)" } ?? "" }.joined(separator: " "))
      cells += [row.trained.map { "\($0)" } ?? "", number(row.seconds), row.peakMemory.map { "\($0)" } ?? "", "\(row.done)", "\(row.failures.count)"]
      return cells
    }
    return ([head] + lines).map { $0.map(cell).joined(separator: ",") + "\n" }.joined()
  }

  package var json: JSON {
    [
      "name": JSON(name), "version": JSON(version), "machine": .object(machine.map { ($0.key, JSON($0.value)) }), "figures": JSON(figures),
      "experiments": .array(axes.map { ["name": JSON($0.experiment), "axes": JSON($0.names)] }), "cells": .array(rows.map(\.json)),
    ]
  }
}

extension SweepResults.Row {
  var json: JSON {
    let figures = figures.map { figure in
      let interval = interval(figure.name)
      let value: JSON = [
        "mean": mean(figure.name).map { JSON($0) } ?? .null, "low": interval.map { JSON($0.low) } ?? .null, "high": interval.map { JSON($0.high) } ?? .null,
        "values": .array(figure.values.map { $0.map { JSON($0) } ?? .null }),
      ]
      return (key: figure.name, value: value)
    }
    return [
      "experiment": JSON(experiment), "values": .object(values.map { ($0.name, JSON($0.text)) }), "seeds": .array(seeds.map { $0.map { JSON($0) } ?? .null }),
      "figures": .object(figures), "trained": trained.map { JSON($0) } ?? .null, "seconds": seconds.map { JSON($0) } ?? .null,
      "peak_memory": peakMemory.map { JSON($0) } ?? .null, "done": JSON(done),
      "failures": .array(failures.map { ["step": JSON($0.step), "code": JSON(Int($0.code)), "message": JSON($0.message)] }),
      "curves": .array(curves.map { JSON($0) }), "commands": JSON(commands),
    ]
  }
}
