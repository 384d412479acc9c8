import NibbleCore

/// LoRA's dropout: numbers of the factors' input are randomly set to zero, the others scaled up to make up for it. What is left out
/// depends only on the seed, the pass, the layer and the place.
package struct Dropout: Sendable {
  let rate: Double
  let seed: UInt64
  /// Counts micro-batches of the whole run.
  let pass: UInt64

  package init(rate: Double, seed: UInt64, pass: UInt64) { (self.rate, self.seed, self.pass) = (rate, seed, pass) }

  /// x with some numbers left out; `out` may be `x`.
  ///
  /// - Parameters:
  ///   - layer: a number of the layer's own
  ///   - first: the place of the first number, which is even
  @discardableResult
  package func applied(
    _ x: UnsafePointer<Float>, count: Int, layer: Int, _ out: UnsafeMutablePointer<Float>, from first: Int = 0
  ) -> UnsafePointer<Float> {
    let random = CountedRandom(seed: seed &+ 0x51ED_270B &* (pass &+ 1), stream: UInt64(layer))
    let limit = UInt64(rate * 0x1p32)
    let keep = Float(1 / (1 - rate))
    // One draw serves two numbers.
    var index = 0
    while index < count {
      let bits = random.bits(UInt64((first + index) / 2))
      out[index] = bits & 0xFFFF_FFFF < limit ? 0 : x[index] * keep
      if index + 1 < count { out[index + 1] = bits >> 32 < limit ? 0 : x[index + 1] * keep }
      index += 2
    }
    return UnsafePointer(out)
  }
}
