import Glibc

/// Random numbers by place: the same seed and place give the same number, on any thread and in any order.
///
/// SplitMix64's mixing function (Steele, Lea and Flood, 2014) over seed, stream and index.
package struct CountedRandom: Sendable {
  private let key: UInt64

  package init(seed: UInt64, stream: UInt64 = 0) {
    key = Self.mix(Self.mix(seed &+ 0x9E37_79B9_7F4A_7C15) ^ (stream &* 0xD1B5_4A32_D192_ED03))
  }

  private static func mix(_ value: UInt64) -> UInt64 {
    var z = value
    z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
    z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
    return z ^ (z >> 31)
  }

  /// 64 random bits.
  package func bits(_ index: UInt64) -> UInt64 { Self.mix(key &+ (index &+ 1) &* 0x9E37_79B9_7F4A_7C15) }

  /// A number from 0 up to but not including 1, of 53 bits.
  package func uniform(_ index: UInt64) -> Double { Double(bits(index) >> 11) * 0x1p-53 }
}

extension CountedRandom {
  /// A normal number with a deviation of 1, by Box and Muller.
  package func normal(_ index: UInt64) -> Double {
    let (u, v) = (1 - uniform(2 * index), uniform(2 * index + 1))
    return (-2 * log(u)).squareRoot() * cos(2 * .pi * v)
  }
}
