/// The values codes stand for: 16 for weights, 256 for scales. Kept as bits, so that none is ever recomputed.
public struct Codebook: Hashable, Sendable {
  /// The bit patterns of the float32 values, by code.
  public let bits: [UInt32]

  /// A table of these bit patterns.
  public init(bits: [UInt32]) { self.bits = bits }

  /// The values, by code.
  public var values: [Float] { bits.map { Float(bitPattern: $0) } }

  /// The values as little-endian bytes, as files hold them.
  public var bytes: [UInt8] {
    bits.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> ($0 * 8)) } }
  }

  /// Reads little-endian float32 values; nil unless there are 16 or 256 finite ones.
  public init?(bytes: [UInt8]) {
    guard bytes.count == 64 || bytes.count == 1024 else { return nil }
    bits = stride(from: 0, to: bytes.count, by: 4).map { at in
      (0..<4).reduce(0) { $0 | UInt32(bytes[at + $1]) << ($1 * 8) }
    }
    guard values.allSatisfy(\.isFinite) else { return nil }
  }
}
