import NibbleCore
import NibbleEvaluation
import NibblePlots

/// A picture with the name of its file, without its ending.
package struct Plot: Sendable {
  package let name: String
  package let title: String
  package let svg: String
}

/// Figures over what varies: lines over numbers, bars of things without an order.
package struct SweepPlots {
  private let results: SweepResults
  /// Pictures of one figure in one experiment; the tables hold the rest.
  private static let maximum = 12
  private static let lines = 8

  package init(_ results: SweepResults) { self.results = results }

  package func plots() -> [Plot] { results.experiments.flatMap(plots(of:)) }

  /// These pictures under names for files: short, and each another.
  package static func named(_ plots: [Plot]) -> [Plot] {
    var seen: Set<String> = []
    return plots.map { plot in
      var (name, number) = (String((plot.name.isEmpty ? "plot" : plot.name).prefix(100)), 1)
      if name.hasPrefix(".") { name = "plot" + name }
      let first = name
      while !seen.insert(name).inserted {
        number += 1
        name = "\(first)-\(number)"
      }
      return Plot(name: name, title: plot.title, svg: plot.svg)
    }
  }

  package func plots(of experiment: String) -> [Plot] { results.figures.flatMap { plots(experiment, $0) } }

  private func plots(_ experiment: String, _ figure: String) -> [Plot] {
    let rows = results.rows(of: experiment).filter { $0.mean(figure) != nil }
    let axes = (results.axes.first { $0.experiment == experiment }?.names ?? []).filter { Self.texts(rows, $0).count > 1 }
    guard rows.count > 1, !axes.isEmpty else { return [] }
    let numeric = axes.filter { name in Self.texts(rows, name).allSatisfy { Double($0)?.isFinite == true } }
    let found = numeric.isEmpty ? [bars(experiment, figure, rows, axes)] : numeric.map { lines(experiment, figure, rows, axes, over: $0) }
    return Array(found.joined().prefix(Self.maximum))
  }

  /// What an axis takes in `rows`, in their order.
  private static func texts(_ rows: [SweepResults.Row], _ axis: String) -> [String] {
    var (texts, seen): ([String], Set<String>) = ([], [])
    for row in rows { if let text = row[axis], seen.insert(text).inserted { texts.append(text) } }
    return texts
  }

  private func prefix(_ experiment: String) -> String { results.experiments.count > 1 ? experiment + ": " : "" }

  private func name(_ parts: [String]) -> String {
    let text = parts.filter { !$0.isEmpty }.joined(separator: "-")
    return text.split { !$0.isASCII || !($0.isLetter || $0.isNumber || "._=+".contains($0)) }.joined(separator: "-")
  }

  private static func bounds(_ row: SweepResults.Row, _ figure: String) -> ClosedRange<Double>? {
    row.interval(figure).flatMap { $0.low <= $0.high ? $0.low...$0.high : nil }
  }

  /// Over a numeric axis: a line for each thing that the first other axis takes, a picture for each combination of the rest.
  private func lines(_ experiment: String, _ figure: String, _ rows: [SweepResults.Row], _ axes: [String], over axis: String) -> [Plot] {
    let others = axes.filter { $0 != axis }
    let split = others.first { Self.texts(rows, $0).count <= Self.lines }
    return groups(rows, others.filter { $0 != split }).compactMap { label, rows in
      let series = (split.map { Self.texts(rows, $0) } ?? [""]).map { text in
        let own = rows.filter { row in split.map { row[$0] == text } ?? true }
        return LineChart.Series(
          split.map { Self.named($0, text) } ?? "",
          own.compactMap { row in
            guard let x = row[axis].flatMap({ Double($0) }), let y = row.mean(figure) else { return nil }
            return LineChart.Point(x, y, bounds: Self.bounds(row, figure))
          })
      }
      let title = prefix(experiment) + "\(figure) over \(axis)" + (label.isEmpty ? "" : ", " + label)
      return LineChart(title, across: axis, up: figure, series).map { Plot(name: name([experiment, figure, axis, label]), title: title, svg: $0.svg) }
    }
  }

  /// `attention` of named cells, `target-modules attention` of an option.
  private static func named(_ axis: String, _ text: String) -> String { axis == "cell" ? text : "\(axis) \(text)" }

  private func bars(_ experiment: String, _ figure: String, _ rows: [SweepResults.Row], _ axes: [String]) -> [Plot] {
    let split = axes.dropFirst().first { Self.texts(rows, $0).count <= Self.lines }
    let title = prefix(experiment) + figure
    return Self.chunks(groups(rows, axes.filter { $0 != split }), 24).enumerated().compactMap { index, groups in
      let series = split.map { Self.texts(rows, $0) } ?? [""]
      let bars = groups.map { label, rows in
        let bars = series.map { text -> BarChart.Bar? in
          guard let row = rows.first(where: { row in split.map { row[$0] == text } ?? true }), let mean = row.mean(figure) else { return nil }
          return BarChart.Bar(mean, bounds: Self.bounds(row, figure), label: SweepResults.text(mean, row.interval(figure)))
        }
        return (name: label, bars: bars)
      }
      let chart = BarChart(title, across: figure, series: split.map { axis in series.map { Self.named(axis, $0) } } ?? [""], bars)
      return chart.map { Plot(name: name([experiment, figure, index > 0 ? "\(index + 1)" : ""]), title: title, svg: $0.svg) }
    }
  }

  /// Rows by what these axes take in them.
  private func groups(_ rows: [SweepResults.Row], _ axes: [String]) -> [(label: String, rows: [SweepResults.Row])] {
    var groups: [(label: String, rows: [SweepResults.Row])] = []
    for row in rows {
      let label = axes.map { Self.named($0, row[$0] ?? "") }.joined(separator: ", ")
      if let place = groups.firstIndex(where: { $0.label == label }) { groups[place].rows.append(row) } else { groups.append((label, [row])) }
    }
    return groups
  }

  private static func chunks<Element>(_ all: [Element], _ count: Int) -> [[Element]] {
    stride(from: 0, to: all.count, by: count).map { Array(all[$0..<min($0 + count, all.count)]) }
  }

  /// The smoothed losses of training, the mean over seeds: a line for each cell.
  ///
  /// - Parameter folder: of the sweep
  package func curves(in folder: String) -> [Plot] {
    results.experiments.flatMap { experiment -> [Plot] in
      let series = results.rows(of: experiment).compactMap { row -> LineChart.Series? in
        let runs = row.curves.compactMap { $0 }.compactMap { TrainingCurve("\(folder)/steps/\($0)")?.smoothed }.filter { !$0.isEmpty }
        guard let length = runs.map(\.count).min() else { return nil }
        return LineChart.Series(row.title, (0..<length).map { step in LineChart.Point(Double(step + 1), runs.reduce(0) { $0 + $1[step] } / Double(runs.count)) })
      }
      return Self.chunks(series, Self.lines).enumerated().compactMap { index, series in
        let title = prefix(experiment) + "Training loss, smoothed"
        return LineChart(title, across: "step", up: "loss", series, hasMarks: false).map {
          Plot(name: name([experiment, "loss", index > 0 ? "\(index + 1)" : ""]), title: title, svg: $0.svg)
        }
      }
    }
  }
}

extension SweepResults.Row {
  /// What a column says of this row.
  subscript(column: String) -> String? { values.first { $0.name == column }?.text }
}

extension TrainingCurve {
  /// The exponential mean of the losses, as progress lines show it.
  package var smoothed: [Double] {
    var mean = ExponentialMean()
    return losses.map { loss in
      mean.add(loss)
      return mean.value
    }
  }
}
