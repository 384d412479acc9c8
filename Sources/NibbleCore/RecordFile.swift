/// A file of records of bytes that only grows. Each stands between its length and a checksum, so what was cut off or damaged ends where
/// that begins.
package final class RecordFile {
  private let file: GrowingFile
  private var length = 0
  /// What was there when the file was opened, as far as it holds.
  package private(set) var records: [[UInt8]] = []

  /// Opens `path`, which is made if it is not there.
  ///
  /// - Throws: `.cannotWrite`, `.usage` while another process has it open
  package init(_ path: String) throws {
    file = try GrowingFile(path)
    let earlier = try InputFile(path)
    while earlier.size - length >= 16 {
      let count = try earlier.bytes(at: length, count: 8).reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
      guard count <= UInt64(earlier.size - length - 16) else { break }
      let record = try earlier.bytes(at: length + 8, count: Int(count))
      guard try earlier.bytes(at: length + 8 + Int(count), count: 8) == Self.checksum(record) else { break }
      records.append(record)
      length += 16 + Int(count)
    }
  }

  /// Where records beside an output lie: in its folder, hidden, under its name and an ending.
  package static func path(beside output: String, _ ending: String) -> String {
    let path = output.withoutTrailingSlashes
    let slash = path.lastIndex(of: "/").map { path.index(after: $0) } ?? path.startIndex
    return String(path[..<slash]) + "." + path[slash...] + "." + ending
  }

  private static func checksum(_ record: [UInt8]) -> [UInt8] {
    var writer = ByteWriter()
    writer.u64(XXH3.digest64(of: record))
    return writer.bytes
  }

  /// Forgets every record.
  package func clear() throws {
    (records, length) = ([], 0)
    try file.cut(to: 0)
  }

  /// Adds a record and waits until it is on the disk.
  package func append(_ record: [UInt8]) throws {
    var writer = ByteWriter()
    writer.u64(record.count)
    try file.write(writer.bytes + record + Self.checksum(record), at: length)
    length += 16 + record.count
  }
}
