import Glibc
import NibbleCore

/// The folder of a sweep: `steps`, a folder for each run of the program; `cells`, where they are found by cell and seed; the summary; plots.
package final class SweepFolder {
  package let path: String
  private let lock: FolderLock
  private let isNew: Bool

  package static let planName = "plan.yaml"

  /// Makes or opens a sweep's folder, and holds it.
  ///
  /// - Throws: `.usage` for a folder that is another thing's, or that another process holds; `.cannotWrite`
  package init(_ path: String) throws {
    let path = path.withoutTrailingSlashes
    self.path = path
    isNew = PathKind(path) == .nothing
    if isNew, mkdir(path, 0o777) != 0 { throw NibbleError.cannotWrite("\(path: path): cannot be created: \(errorText(errno))") }
    guard PathKind(path) == .folder else { throw NibbleError.usage("\(path: path) exists and is no folder") }
    lock = try FolderLock(path)
    let names = try namesInFolder(path).filter { !$0.hasPrefix(".") }
    if let stranger = names.first, !names.contains(Self.planName) {
      throw NibbleError.usage("\(path: path) holds \(subject: stranger), and is no folder of a sweep")
    }
  }

  /// The plan as the last sweep in the folder had it; nil for a new folder.
  package func earlierPlan() -> String? {
    guard let file = try? InputFile(path + "/" + Self.planName), let bytes = try? file.bytes(at: 0, count: min(file.size, 1 << 20)) else { return nil }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// Takes a plan, and shows its cells under their names.
  package func begin(_ plan: SweepPlan, _ graph: StepGraph) throws {
    try TextFile.write(plan.text, to: path + "/" + Self.planName, force: true)
    try makeFolder("steps")
    for key in graph.order { if let step = graph.steps[key] { try makeFolder("steps/" + step.folder) } }
    try link(plan, graph)
  }

  func makeFolder(_ name: String) throws {
    let place = path + "/" + name
    guard mkdir(place, 0o777) == 0 || errno == EEXIST && isOwnFolder(place) else {
      throw NibbleError.cannotWrite("\(path: place): cannot be created: \(errorText(errno))")
    }
  }

  /// Links by experiment, cell and seed, all of them made anew.
  private func link(_ plan: SweepPlan, _ graph: StepGraph) throws {
    try removeLinks("cells", depth: 0)
    try makeFolder("cells")
    let cells = plan.cells
    for run in graph.runs {
      let cell = cells[run.cell]
      var place = "cells"
      for part in (plan.experiments.count > 1 ? [cell.experiment] : []) + [cell.title] + (run.seed.map { ["seed-\($0)"] } ?? []) {
        place += "/" + Self.fileName(part)
        try makeFolder(place)
      }
      let up = String(repeating: "../", count: place.split(separator: "/").count)
      for (name, key) in run.steps {
        guard let step = graph.steps[key] else { continue }
        let link = path + "/" + place + "/" + Self.fileName(step.task.map { "evaluate-" + $0 } ?? name)
        guard symlink(up + "steps/" + step.folder, link) == 0 || errno == EEXIST else { throw NibbleError.cannotWrite("\(path: link): \(errorText(errno))") }
      }
    }
  }

  /// Removes links, and folders that hold nothing else.
  private func removeLinks(_ name: String, depth: Int) throws {
    let place = path + "/" + name
    guard depth < 5, isOwnFolder(place) else { return }
    for inner in try namesInFolder(place) {
      var status = stat()
      guard lstat(place + "/" + inner, &status) == 0 else { continue }
      if status.st_mode & S_IFMT == S_IFLNK { unlink(place + "/" + inner) } else { try removeLinks(name + "/" + inner, depth: depth + 1) }
    }
    rmdir(place)
  }

  /// `text` as the name of a file: unchanged where that is plain, else with a digest that tells it from others.
  package static func fileName(_ text: String) -> String {
    let isPlain: (Character) -> Bool = { $0.isASCII && ($0.isLetter || $0.isNumber || "._=+-".contains($0)) }
    let short = text.replacing(", ", with: "_")
    let plain = String(short.map { isPlain($0) ? $0 : "-" })
    guard plain != short || plain.utf8.count > 80 || plain.hasPrefix(".") else { return plain }
    let hash = XXH3()
    hash.update(Array(text.utf8))
    return (plain.hasPrefix(".") ? "-" : "") + plain.prefix(60) + "~" + hexText(hash.digest64).prefix(6)
  }

  /// Takes back a folder that was made for this sweep and is empty still.
  package func discardIfNew() { if isNew { rmdir(path) } }

  /// The records of the steps that are done.
  package func records(_ graph: StepGraph) -> [StepKey: StepRecord] { Self.records(graph, in: path) }

  /// The same of a folder that another sweep may hold.
  package static func records(_ graph: StepGraph, in path: String) -> [StepKey: StepRecord] {
    graph.steps.compactMapValues { StepRecord(of: $0, in: "\(path)/steps/\($0.folder)") }
  }

  package func place(_ step: Step) -> String { path + "/steps/" + step.folder }
  /// Where a step's output is, for steps that take it.
  package func output(_ step: Step) -> String { place(step) + (step.output.map { "/" + $0 } ?? "") }

  /// Folders of steps that `graph` does not have: of earlier plans.
  package func others(than graph: StepGraph) -> [String] {
    let own = Set(graph.order.compactMap { graph.steps[$0]?.folder })
    return ((try? namesInFolder(path + "/steps")) ?? []).filter { !own.contains($0) && !$0.hasPrefix(".") }
  }
}
