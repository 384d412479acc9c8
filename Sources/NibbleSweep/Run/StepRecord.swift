import Glibc
import NibbleCore

/// What is known of a step that is done: written once, whole, when it is.
package struct StepRecord: Sendable {
  /// As it can be typed.
  package let command: String
  package let version: String
  /// Seconds of the run that finished it; those of runs that were interrupted before are not in it.
  package let seconds: Double
  /// What the verb reports.
  package let report: JSON

  private static let name = "done.json"

  package init(command: String, version: String, seconds: Double, report: JSON) {
    (self.command, self.version, self.seconds, self.report) = (command, version, seconds, report)
  }

  /// The record in a step's folder; nil where the step is not done, or the record is of another one.
  init?(of step: Step, in folder: String) {
    let path = folder + "/" + Self.name
    guard PathKind(path) == .file, let file = try? InputFile(path), file.size <= 1 << 28,
      let json = try? JSON.parse(file.bytes(at: 0, count: file.size)), json["key"]?.string == step.key.description,
      let command = json["command"]?.string, let version = json["version"]?.string, let seconds = json["seconds"]?.double, let report = json["report"]
    else { return nil }
    self.init(command: command, version: version, seconds: seconds, report: report)
  }

  /// Forgets that a step is done: what it wrote is about to be replaced.
  static func remove(from folder: String) { unlink(folder + "/" + name) }

  func write(_ step: Step, in folder: String) throws {
    let json: JSON = [
      "key": JSON(step.key.description), "verb": JSON(step.verb.rawValue), "command": JSON(command), "version": JSON(version), "seconds": JSON(seconds), "report": report,
    ]
    try TextFile.write(String(decoding: json.fileBytes, as: UTF8.self), to: folder + "/" + Self.name, force: true)
  }
}
