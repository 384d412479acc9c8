import Glibc
import NibbleCore

/// The answers of an evaluation as they come, so that one that is interrupted goes on where it was.
///
/// The first record says what is evaluated; each other one is a row of the file of predictions with its number.
final class AnswerJournal {
  private let path: String
  private let partial: String
  private let file: RecordFile
  /// Rows that are there, by number.
  private(set) var rows: [Int: JSON] = [:]

  /// - Parameters:
  ///   - path: where the answers go at the end
  ///   - subject: what is evaluated, and how: the journal of anything else is not continued
  ///   - resumes: whether answers that are there count
  /// - Throws: `.usage` if the answers that are there are those of something else, or while another process writes them; `.cannotWrite`
  init(_ path: String, subject: JSON, resumes: Bool) throws {
    self.path = path
    partial = RecordFile.path(beside: path, "nibble-answers")
    guard PathKind(path) == .nothing else { throw NibbleError.usage("\(path: path) exists") }
    file = try RecordFile(partial)
    let title = Array(subject.text().utf8)
    if resumes, let first = file.records.first {
      guard first == title else {
        throw NibbleError.usage("\(path: partial) holds the answers to another evaluation; without --resume it is begun anew")
      }
      for record in file.records.dropFirst() {
        if let row = try? JSON.parse(record), let number = row["row"]?.int { rows[number] = row }
      }
    } else {
      try file.clear()
      try file.append(title)
    }
  }

  /// Takes down the answer to question `number`.
  func add(_ number: Int, _ row: JSON) throws {
    rows[number] = row
    try file.append(Array(row.text().utf8))
  }

  /// Puts all answers where they belong.
  func publish() throws {
    try TextFile.write(rows.keys.sorted().compactMap { rows[$0].map { $0.text() + "\n" } }.joined(), to: path)
    unlink(partial)
  }
}
