extension UnsafeMutableRawBufferPointer {
  /// Exchanges the halves of each byte.
  func swapNibbles() {
    guard let start = baseAddress else { return }
    var at = 0
    while at + 8 <= count {
      let word = (start + at).loadUnaligned(as: UInt64.self), low: UInt64 = 0x0F0F_0F0F_0F0F_0F0F
      (start + at).storeBytes(of: (word & low) << 4 | (word >> 4) & low, as: UInt64.self)
      at += 8
    }
    while at < count {
      self[at] = self[at] << 4 | self[at] >> 4
      at += 1
    }
  }
}
