import Glibc
import NibbleCore

extension SweepResults {
  /// Writes the summary, each file whole or not at all.
  ///
  /// - Parameter plots: whether pictures are drawn anew
  package func write(to folder: SweepFolder, plots: Bool) throws {
    func write(_ name: String, _ text: String) throws { try TextFile.write(text, to: folder.path + "/" + name, force: true) }
    try write("summary.json", String(decoding: json.fileBytes, as: UTF8.self))
    try write("summary.csv", csv)
    try write("summary.md", markdown)
    guard plots else { return }
    try folder.makeFolder("plots")
    let pictures = SweepPlots.named(SweepPlots(self).plots() + SweepPlots(self).curves(in: folder.path))
    let names = Set(pictures.map { $0.name + ".svg" })
    for old in try namesInFolder(folder.path + "/plots") where old.hasSuffix(".svg") && !names.contains(old) { unlink(folder.path + "/plots/" + old) }
    for picture in pictures { try write("plots/\(picture.name).svg", picture.svg) }
  }

  /// Reads `summary.json` of a sweep's folder.
  ///
  /// - Throws: `.badInput` for what is no such file
  package init(summaryIn folder: String) throws {
    let path = folder + "/summary.json"
    let file = try InputFile(path)
    guard file.size <= 1 << 28 else { throw NibbleError.badInput("\(path: path): \(file.size) bytes are no summary") }
    let json: JSON
    do throws(JSONError) { json = try JSON.parse((try? file.bytes(at: 0, count: file.size)) ?? []) } catch { throw NibbleError.badInput("\(path: path): \(error.reason) at byte \(error.offset)") }
    guard let read = SweepResults(json) else { throw NibbleError.badInput("\(path: path): not the summary of a sweep") }
    self = read
  }

  private init?(_ json: JSON) {
    guard let name = json["name"]?.string, let version = json["version"]?.string, let figures = json["figures"]?.array, let cells = json["cells"]?.array,
      let experiments = json["experiments"]?.array
    else { return nil }
    (self.name, self.version) = (name, version)
    self.figures = figures.compactMap(\.string)
    machine = (json["machine"]?.members ?? []).compactMap { member in member.value.string.map { (member.key, $0) } }
    axes = experiments.compactMap { one in one["name"]?.string.map { ($0, (one["axes"]?.array ?? []).compactMap(\.string)) } }
    rows = cells.compactMap { Row($0) }
    guard rows.count == cells.count else { return nil }
  }
}

extension SweepResults.Row {
  fileprivate init?(_ json: JSON) {
    guard let experiment = json["experiment"]?.string, let seeds = json["seeds"]?.array else { return nil }
    self.init(
      experiment: experiment, values: (json["values"]?.members ?? []).map { CellValue($0.key, $0.value.string ?? "") }, seeds: seeds.map(\.int))
    figures = (json["figures"]?.members ?? []).map { ($0.key, ($0.value["values"]?.array ?? []).map(\.double)) }
    (trained, seconds, peakMemory, done) = (json["trained"]?.int, json["seconds"]?.double, json["peak_memory"]?.int, json["done"]?.int ?? 0)
    failures = (json["failures"]?.array ?? []).map { ($0["step"]?.string ?? "", Int32(clamping: $0["code"]?.int ?? 1), $0["message"]?.string ?? "") }
    curves = (json["curves"]?.array ?? []).map { one in one.string.flatMap { $0.contains("..") || $0.hasPrefix("/") ? nil : $0 } }
    commands = (json["commands"]?.array ?? []).compactMap(\.string)
  }
}
