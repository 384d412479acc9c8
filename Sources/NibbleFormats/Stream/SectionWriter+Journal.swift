import NibbleCore

extension SectionWriter {
  /// A section that was written, as a journal keeps it.
  struct Record {
    var start: Int?
    var storedLength: Int
    var checksum: UInt64
    /// Of a section that is kept in memory.
    var captured: [UInt8]
    var staysPlain = false

    var json: JSON {
      [
        "start": start.map { JSON($0) } ?? .null, "stored": JSON(storedLength), "checksum": JSON(hexText(checksum)),
        "captured": JSON(captured.map(Int.init)),
        "plain": .bool(staysPlain),
      ]
    }

    init(start: Int?, storedLength: Int, checksum: UInt64, captured: [UInt8], staysPlain: Bool) {
      self.staysPlain = staysPlain
      self.start = start
      self.storedLength = storedLength
      self.checksum = checksum
      self.captured = captured
    }

    init?(_ json: JSON) {
      guard let storedLength = json["stored"]?.int, storedLength >= 0,
        let checksum = json["checksum"]?.string.flatMap({ UInt64($0, radix: 16) }), let captured = json["captured"]?.array
      else { return nil }
      self.init(
        start: json["start"]?.int, storedLength: storedLength, checksum: checksum,
        captured: captured.compactMap { $0.int.flatMap(UInt8.init(exactly:)) }, staysPlain: json["plain"]?.bool ?? false)
    }
  }

  var record: Record { Record(start: start, storedLength: storedLength, checksum: checksum, captured: captured, staysPlain: staysPlain == true) }

  /// Whether the bytes that `record` tells of are there.
  func holds(_ record: Record) throws -> Bool {
    guard isCompressed && !record.staysPlain || record.storedLength == expectedLength else { return false }
    guard let file = cursor?.file else { return record.captured.count == plainLength }
    let earlier = try file.earlier()
    guard let start = record.start, start >= 0, record.storedLength <= earlier.size, start <= earlier.size - record.storedLength
    else { return false }
    let hash = XXH3()
    let buffer = Scratch()
    for at in stride(from: 0, to: record.storedLength, by: OutputFile.windowSize) {
      try Interrupt.check()
      let piece = buffer.bytes(0, min(OutputFile.windowSize, record.storedLength - at))
      try earlier.read(into: piece, at: start + at)
      hash.update(UnsafeRawBufferPointer(piece))
    }
    return hash.digest64 == record.checksum
  }

  /// Becomes the writer that wrote what `record` tells of.
  func takeOver(_ record: Record) throws {
    (storedLength, checksum, captured) = (record.storedLength, record.checksum, record.captured)
    if isCompressed { staysPlain = record.staysPlain }
    guard let cursor else { return }
    start = try cursor.align()
    guard start == record.start else {
      throw NibbleError.integrity("\(path: cursor.file.path): the journal of an earlier run does not fit; run without \(.resume)")
    }
    let range = cursor.advance(record.storedLength)
    try cursor.file.keep(range..<range + record.storedLength)
  }
}
