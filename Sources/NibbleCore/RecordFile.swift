import Glibc

/// A file of records of bytes that only grows. Each stands between its length and a checksum, so what was cut off or damaged ends where
/// that begins.
package final class RecordFile {
  private let path: String
  private let descriptor: Int32
  private var length = 0
  /// What was there when the file was opened, as far as it holds.
  package private(set) var records: [[UInt8]] = []

  /// Opens `path`, which is made if it is not there.
  ///
  /// - Throws: `.cannotWrite`
  package init(_ path: String) throws {
    self.path = path
    descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0o666)
    guard descriptor >= 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
    var status = stat()
    guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else {
      throw NibbleError.cannotWrite("\(path: path): not a regular file")
    }
    let file = try InputFile(path)
    while file.size - length >= 16 {
      let count = try file.bytes(at: length, count: 8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      guard count <= UInt64(file.size - length - 16) else { break }
      let record = try file.bytes(at: length + 8, count: Int(count))
      guard try file.bytes(at: length + 8 + Int(count), count: 8) == Self.checksum(record) else { break }
      records.append(record)
      length += 16 + Int(count)
    }
  }

  deinit { close(descriptor) }

  private static func checksum(_ record: [UInt8]) -> [UInt8] {
    var writer = ByteWriter()
    writer.u64(XXH3.digest64(of: record))
    return writer.bytes
  }

  /// Forgets every record.
  package func clear() throws {
    (records, length) = ([], 0)
    guard ftruncate(descriptor, 0) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno))") }
  }

  /// Adds a record and waits until it is on the disk.
  package func append(_ record: [UInt8]) throws {
    var writer = ByteWriter()
    writer.u64(record.count)
    try writeAll(writer.bytes + record + Self.checksum(record), to: descriptor, at: length, path)
    length += 16 + record.count
    guard fdatasync(descriptor) == 0 else { throw NibbleError.cannotWrite("\(path: path): \(errorText(errno)) while syncing") }
  }
}
