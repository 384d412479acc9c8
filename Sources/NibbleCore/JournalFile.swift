/// A file of lines that only grows. Each line begins with a checksum of itself and all before it, so what was cut off, damaged or
/// put together from others ends where that begins.
package final class JournalFile {
  private static let maximumSize = 1 << 30

  private let file: GrowingFile
  private let hash = XXH3()
  private var length = 0
  /// What was there when the file was opened, as far as it holds.
  package private(set) var lines: [[UInt8]] = []

  /// Opens `path`, which is made if it is not there.
  ///
  /// - Throws: `.cannotWrite`, `.usage` while another process has it open
  package init(_ path: String) throws {
    file = try GrowingFile(path)
    let earlier = try InputFile(path)
    guard earlier.size <= Self.maximumSize else { return }
    for line in try earlier.bytes(at: 0, count: earlier.size).split(separator: 0x0A, omittingEmptySubsequences: false).dropLast() {
      guard line.count > 17, line.prefix(17).elementsEqual(checksum(after: line.dropFirst(17)).utf8) else { break }
      lines.append(Array(line.dropFirst(17)))
    }
  }

  /// Takes the next line into the checksum of all.
  private func checksum(after line: ArraySlice<UInt8>) -> String {
    hash.update(Array(line) + [0x0A])
    return hexText(hash.digest64) + " "
  }

  /// Forgets all lines but the first `count`; others can be appended then.
  package func keep(first count: Int) throws {
    hash.reset()
    length = 0
    lines = Array(lines.prefix(count))
    for line in lines { length += checksum(after: line[...]).utf8.count + line.count + 1 }
    try file.cut(to: length)
  }

  /// Adds lines and waits until they are on the disk.
  package func append(_ lines: [[UInt8]]) throws {
    var bytes: [UInt8] = []
    for line in lines { bytes += Array(checksum(after: line[...]).utf8) + line + [0x0A] }
    try file.write(bytes, at: length)
    length += bytes.count
  }
}
