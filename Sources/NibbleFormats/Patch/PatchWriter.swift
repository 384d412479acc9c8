import NibbleCore

/// Writes a patch: room for the header first, then both heads and the spans, the index last.
final class PatchWriter: @unchecked Sendable {
  private let file: OutputFile
  private let heads: (NblHead, NblHead)
  private var position: Int
  /// Those for which there is room already. Changed by one thread at a time.
  private(set) var spans: [PatchSpan] = []

  init(_ file: OutputFile, _ heads: (NblHead, NblHead)) {
    (self.file, self.heads) = (file, heads)
    position = PatchHeader.length + heads.0.bytes.count + heads.1.bytes.count
  }

  /// Sets room aside for the next spans and says where it begins.
  func reserve(_ more: [PatchSpan]) -> Int {
    defer { position += more.reduce(0) { $0 + $1.stored } }
    spans += more
    return position
  }

  func write(_ bytes: UnsafeRawBufferPointer, at place: Int) throws { try file.write(bytes, at: place) }

  /// Writes what is only known at the end.
  ///
  /// - Returns: bytes of the whole file
  func finish() throws -> Int {
    var index = ByteWriter()
    for span in spans { span.append(to: &index) }
    let both = heads.0.bytes + heads.1.bytes
    let hash = XXH3()
    hash.update(both)
    hash.update(index.bytes)
    let header = PatchHeader(
      fileLength: position + index.bytes.count, heads: (heads.0.bytes.count, heads.1.bytes.count), spans: spans.count,
      checksum: hash.digest64)
    try file.write(header.bytes + both, at: 0)
    try file.write(index.bytes, at: position)
    try file.finish(length: header.fileLength)
    return header.fileLength
  }
}
