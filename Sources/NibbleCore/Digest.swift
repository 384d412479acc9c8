import CXXHash

/// A 128-bit XXH3 hash. It names content; it is no signature.
public struct Digest128: Hashable, Sendable, CustomStringConvertible {
  /// The more significant half.
  public let high: UInt64
  /// The less significant half.
  public let low: UInt64

  /// A hash of two halves.
  public init(high: UInt64, low: UInt64) {
    self.high = high
    self.low = low
  }

  /// Reads 32 hexadecimal digits.
  public init?(hex: String) {
    guard hex.utf8.count == 32, let high = UInt64(hex.prefix(16), radix: 16),
      let low = UInt64(hex.suffix(16), radix: 16)
    else { return nil }
    self.init(high: high, low: low)
  }

  /// 32 hexadecimal digits, as `xxhsum -H2` prints them.
  public var description: String { hexText(high) + hexText(low) }
}

/// 16 hexadecimal digits.
package func hexText(_ value: UInt64) -> String {
  let digits = String(value, radix: 16)
  return String(repeating: "0", count: 16 - digits.count) + digits
}

/// XXH3 over bytes that come in pieces.
///
/// The 64-bit and the 128-bit variant of XXH3 share one state and differ only at the end, so a
/// single pass yields both. Updates come from one thread at a time.
package final class XXH3: @unchecked Sendable {
  private let state: OpaquePointer

  package init() {
    // Fails only when 576 bytes cannot be had, where Swift's own allocations stop the program too.
    guard let state = XXH3_createState() else { preconditionFailure("out of memory") }
    self.state = state
    XXH3_128bits_reset(state)
  }

  deinit { XXH3_freeState(state) }

  /// Forgets all that came before.
  package func reset() { XXH3_128bits_reset(state) }

  /// Hashes `bytes` after all that came before.
  package func update(_ bytes: UnsafeRawBufferPointer) {
    guard let base = bytes.baseAddress, bytes.count > 0 else { return }
    xxh3_update(state, base, bytes.count)
  }

  package func update(_ bytes: [UInt8]) {
    bytes.withUnsafeBytes { update($0) }
  }

  /// XXH3-64 of everything so far.
  package var digest64: UInt64 { XXH3_64bits_digest(state) }

  /// XXH3-128 of everything so far.
  package var digest128: Digest128 {
    let hash = XXH3_128bits_digest(state)
    return Digest128(high: hash.high64, low: hash.low64)
  }

  /// XXH3-64 of `bytes`.
  package static func digest64(of bytes: [UInt8]) -> UInt64 {
    bytes.withUnsafeBytes { digest64(of: $0) }
  }

  package static func digest64(of bytes: UnsafeRawBufferPointer) -> UInt64 {
    XXH3_64bits(bytes.baseAddress, bytes.count)
  }
}
