import NibbleCore

/// Where numbers lie: in use [heads, keys + values, rank]; in llama.cpp's files keys as [heads, rank, keys] and values as [heads, values, rank].
extension ComposedBytes.LatentHeads {
  private var rowBytes: Int { rank * width }

  /// The rows for keys, each head's turned.
  func take(_ whole: [UInt8], keys out: UnsafeMutableBufferPointer<UInt8>) {
    whole.withUnsafeBytes { from in
      forEachKey { used, stored in Self.copy(from, used, UnsafeMutableRawBufferPointer(out), stored, width) }
    }
  }

  /// The rows for values.
  func take(_ whole: [UInt8], values out: UnsafeMutableBufferPointer<UInt8>) {
    whole.withUnsafeBytes { from in
      forEachHead { used, stored, count in Self.copy(from, used, UnsafeMutableRawBufferPointer(out), stored, count) }
    }
  }

  /// All rows.
  func join(keys: [UInt8], values: [UInt8], _ out: UnsafeMutableBufferPointer<UInt8>) {
    let to = UnsafeMutableRawBufferPointer(out)
    keys.withUnsafeBytes { from in forEachKey { used, stored in Self.copy(from, stored, to, used, width) } }
    values.withUnsafeBytes { from in forEachHead { used, stored, count in Self.copy(from, stored, to, used, count) } }
  }

  /// Calls `body` with the place of each number of the keys in use, and in the file.
  private func forEachKey(_ body: (_ used: Int, _ stored: Int) -> Void) {
    for head in 0..<heads {
      let (used, stored) = (head * (keys + values) * rowBytes, head * keys * rowBytes)
      for column in 0..<rank {
        for row in 0..<keys { body(used + row * rowBytes + column * width, stored + (column * keys + row) * width) }
      }
    }
  }

  /// Calls `body` with the place of each head's values in use, that in the file, and its bytes.
  private func forEachHead(_ body: (_ used: Int, _ stored: Int, _ count: Int) -> Void) {
    for head in 0..<heads { body((head * (keys + values) + keys) * rowBytes, head * values * rowBytes, values * rowBytes) }
  }

  private static func copy(_ from: UnsafeRawBufferPointer, _ start: Int, _ out: UnsafeMutableRawBufferPointer, _ place: Int, _ count: Int) {
    guard let source = from.baseAddress, let target = out.baseAddress else { return }
    (target + place).copyMemory(from: source + start, byteCount: count)
  }
}
