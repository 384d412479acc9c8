import Glibc

/// A file of lines that only grows. Each line begins with a checksum of itself and all before it, so what was cut off, damaged or
/// put together from others ends where that begins.
package final class JournalFile {
  private static let maximumSize = 1 << 30

  private let path: String
  private let descriptor: Int32
  private let hash = XXH3()
  private var length = 0
  /// What was there when the file was opened, as far as it holds.
  package private(set) var lines: [[UInt8]] = []

  /// Opens `path`, which is made if it is not there.
  package init(_ path: String) throws {
    self.path = path
    descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o666)
    guard descriptor >= 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw NibbleError.cannotWrite("\(path: path): not a regular file")
    }
    guard status.st_size <= Self.maximumSize else { return }
    let file = try InputFile(path)
    for line in try file.bytes(at: 0, count: file.size).split(separator: 0x0A, omittingEmptySubsequences: false).dropLast() {
      guard line.count > 17, line.prefix(17).elementsEqual(checksum(after: line.dropFirst(17)).utf8) else { break }
      lines.append(Array(line.dropFirst(17)))
    }
  }

  deinit { close(descriptor) }

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
    guard ftruncate(descriptor, off_t(length)) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
  }

  /// Adds lines and waits until they are on the disk.
  package func append(_ lines: [[UInt8]]) throws {
    var bytes: [UInt8] = []
    for line in lines { bytes += Array(checksum(after: line[...]).utf8) + line + [0x0A] }
    try writeAll(bytes, to: descriptor, at: length, path)
    length += bytes.count
    guard fdatasync(descriptor) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing") }
  }
}
