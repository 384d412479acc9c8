/// A file of JSON values, one a line, read a block at a time.
package enum JSONLines {
  /// A longer line is refused.
  private static let maximumLine = 1 << 28
  private static let block = 1 << 20
  /// What some editors put before the first line.
  private static let byteOrderMark: [UInt8] = [0xEF, 0xBB, 0xBF]

  /// Calls `body` with each value and its place, `file:line`. Empty lines are passed over.
  ///
  /// - Parameter advice: what to say to someone whose line is no JSON
  /// - Throws: `.badInput` for what is no JSON
  package static func forEach(_ path: String, advice: MessageText = "", _ body: (JSON, _ place: String) throws -> Void) throws {
    try forEach(InputFile(path), advice, body)
  }

  /// The same for a file that may hold one JSON array instead: `body` is called with each of its elements then, at `file:line, row n`.
  package static func forEachRow(_ path: String, advice: MessageText = "", _ body: (JSON, _ place: String) throws -> Void) throws {
    let file = try InputFile(path)
    let start = try file.bytes(at: 0, count: min(block, file.size))
    let text = start.starts(with: byteOrderMark) ? start.dropFirst(3) : start[...]
    guard text.first(where: { !isBlank($0) }) == UInt8(ascii: "[") else { return try forEach(file, advice, body) }
    try forEachElement(file, after: text.startIndex, advice, body)
  }

  private static func isBlank(_ byte: UInt8) -> Bool { byte == 0x20 || (0x09...0x0D).contains(byte) }

  private static func forEach(_ file: InputFile, _ advice: MessageText, _ body: (JSON, _ place: String) throws -> Void) throws {
    let path = file.path
    var offset = 0
    var number = 0
    var pending: [UInt8] = []
    /// - Returns: nil for an empty line
    func value(_ whole: ArraySlice<UInt8>) throws -> JSON? {
      number += 1
      let line = number == 1 && whole.starts(with: byteOrderMark) ? whole.dropFirst(3) : whole
      if line.allSatisfy(isBlank) { return nil }
      do throws(JSONError) { return try JSON.parse(line, allowsNonFinite: false) } catch {
        throw NibbleError.badInput("\(path: "\(path):\(number)"): \(error.reason) at byte \(error.offset) of the line\(advice)")
      }
    }
    while offset < file.size {
      try Interrupt.check()
      let bytes = try file.bytes(at: offset, count: min(block, file.size - offset))
      offset += bytes.count
      var start = 0
      while let end = bytes[start...].firstIndex(of: 0x0A) {
        let found: JSON?
        if pending.isEmpty {
          found = try value(bytes[start..<end])
        } else {
          pending += bytes[start..<end]
          found = try value(pending[...])
          // A line may be large: it is gone before its row is worked on.
          pending = []
        }
        if let found { try body(found, "\(path):\(number)") }
        start = end + 1
      }
      pending += bytes[start...]
      guard pending.count <= maximumLine else {
        throw NibbleError.badInput("\(path: "\(path):\(number + 1)"): a line longer than \(maximumLine) bytes")
      }
    }
    if !pending.isEmpty, let found = try value(pending[...]) {
      pending = []
      try body(found, "\(path):\(number)")
    }
  }

  private static func forEachElement(
    _ file: InputFile, after start: Int, _ advice: MessageText, _ body: (JSON, _ place: String) throws -> Void
  ) throws {
    let mapped = try file.map()
    let bytes = UnsafeRawBufferPointer(rebasing: mapped.bytes[start...])
    var reader = JSONReader(bytes)
    var failure: (any Error)?
    // Lines up to a byte that only moves forward.
    var (number, lines, counted) = (0, 1, 0)
    func line(at offset: Int) -> Int {
      while counted < min(offset, bytes.count) {
        if bytes[counted] == 0x0A { lines += 1 }
        counted += 1
      }
      return lines
    }
    do throws(JSONError) {
      try reader.array { reader throws(JSONError) in
        _ = reader.peek()
        number += 1
        let place = "\(file.path):\(line(at: reader.offset)), row \(number)"
        let value = try JSON(reading: &reader)
        do {
          try Interrupt.check()
          try body(value, place)
        } catch {
          failure = error
          throw reader.error("")
        }
      }
      try reader.end()
    } catch {
      if let failure { throw failure }
      throw NibbleError.badInput("\(path: "\(file.path):\(line(at: error.offset))"): \(error.reason) at byte \(start + error.offset)\(advice)")
    }
  }
}
