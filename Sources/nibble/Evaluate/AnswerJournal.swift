import Glibc
import NibbleCore

/// The answers of an evaluation as they come, so that one that is interrupted goes on where it was.
///
/// `FILE.partial` begins with a line that says what is evaluated; each line after it is a row of `FILE` with its number. A last line that was cut is
/// asked again.
final class AnswerJournal {
  private let path: String
  private let partial: String
  private var descriptor: Int32 = -1
  /// Rows that are there, by number.
  private(set) var rows: [Int: JSON] = [:]

  /// - Parameters:
  ///   - path: where the answers go at the end
  ///   - subject: what is evaluated, and how: the journal of anything else is not continued
  ///   - resumes: whether answers that are there count
  /// - Throws: `.usage` if the answers that are there are those of something else, `.cannotWrite`
  init(_ path: String, subject: JSON, resumes: Bool) throws {
    self.path = path
    partial = path + ".partial"
    guard PathKind(path) == .nothing else { throw NibbleError.usage("\(path: path) exists") }
    let first = subject.text()
    var kept = ""
    if resumes, PathKind(partial) == .file {
      let file = try InputFile(partial)
      let text = String(decoding: try file.bytes(at: 0, count: file.size), as: UTF8.self)
      let lines = text.split(separator: "\n", omittingEmptySubsequences: false)
      guard lines.first.map(String.init) == first || lines.count < 2 else {
        throw NibbleError.usage("\(path: partial) holds the answers to another evaluation: without --resume it is begun anew")
      }
      kept = first + "\n"
      for line in lines.dropFirst().dropLast() {
        guard let row = try? JSON.parse(Array(line.utf8)), let number = row["row"]?.int else { break }
        rows[number] = row
        kept += line + "\n"
      }
    }
    if kept.isEmpty { kept = first + "\n" }
    descriptor = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    guard descriptor >= 0 else { throw NibbleError.cannotWrite("\(path: partial): \(errorText(errno))") }
    try append(kept)
  }

  deinit { if descriptor >= 0 { close(descriptor) } }

  /// Takes down the answer to question `number`.
  func add(_ number: Int, _ row: JSON) throws {
    rows[number] = row
    try append(row.text() + "\n")
  }

  private func append(_ text: String) throws {
    let bytes = Array(text.utf8)
    var done = 0
    while done < bytes.count {
      let count = bytes[done...].withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress, $0.count) }
      if count < 0, errno == EINTR { continue }
      guard count > 0 else { throw NibbleError.cannotWrite("\(path: partial): \(errorText(errno))") }
      done += count
    }
  }

  /// Puts all answers where they belong.
  func publish() throws {
    try TextFile.write(rows.keys.sorted().compactMap { rows[$0].map { $0.text() + "\n" } }.joined(), to: path)
    unlink(partial)
  }
}
