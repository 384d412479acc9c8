/// A file of JSON values, one a line, read a block at a time.
package enum JSONLines {
  /// A longer line is refused.
  private static let maximumLine = 1 << 28
  private static let block = 1 << 20

  /// Calls `body` with each value and its place, `file:line`. Empty lines are passed over.
  ///
  /// - Throws: `.badInput` for what is no JSON
  package static func forEach(_ path: String, _ body: (JSON, _ place: String) throws -> Void) throws {
    let file = try InputFile(path)
    var offset = 0
    var number = 0
    var pending: [UInt8] = []
    func take(_ whole: ArraySlice<UInt8>) throws {
      number += 1
      // What some editors put before the first.
      let line = number == 1 && whole.starts(with: [0xEF, 0xBB, 0xBF]) ? whole.dropFirst(3) : whole
      if line.allSatisfy({ $0 == 0x20 || $0 == 0x09 || $0 == 0x0D }) { return }
      let value: JSON
      do throws(JSONError) {
        value = try JSON.parse(Array(line), allowsNonFinite: false)
      } catch {
        throw NibbleError.badInput("\(path: "\(path):\(number)"): \(error.reason) at byte \(error.offset) of the line")
      }
      try body(value, "\(path):\(number)")
    }
    while offset < file.size {
      try Interrupt.check()
      let bytes = try file.bytes(at: offset, count: min(block, file.size - offset))
      offset += bytes.count
      var start = 0
      while let end = bytes[start...].firstIndex(of: 0x0A) {
        if pending.isEmpty {
          try take(bytes[start..<end])
        } else {
          pending += bytes[start..<end]
          let line = pending
          pending = []
          try take(line[...])
        }
        start = end + 1
      }
      pending += bytes[start...]
      guard pending.count <= maximumLine else {
        throw NibbleError.badInput("\(path: "\(path):\(number + 1)"): a line longer than \(maximumLine) bytes")
      }
    }
    if !pending.isEmpty { try take(pending[...]) }
  }
}
