import NibbleCore

/// NEFTune's noise on embeddings (Jain and others 2023), as transformers and TRL add it: uniform between −a and a, a = alpha / √(length · width) of
/// each sequence. It follows from seed, pass and place.
package struct EmbeddingNoise: Sendable {
  package let alpha: Double
  package let seed: UInt64
  /// Counts micro-batches of the whole run.
  package let pass: UInt64

  package init(alpha: Double, seed: UInt64, pass: UInt64) { (self.alpha, self.seed, self.pass) = (alpha, seed, pass) }

  /// Adds to the rows of sequences that lie one behind another.
  ///
  /// - Parameter lengths: tokens of each
  package func add(to x: UnsafeMutablePointer<Float>, lengths: [Int], width: Int) {
    let random = CountedRandom(seed: seed &+ 0x2EF7_0B1D &* (pass &+ 1), stream: 0x4E45_4654)
    var index = 0
    for length in lengths {
      let count = length * width
      guard count > 0 else { continue }
      let most = alpha / Double(count).squareRoot()
      for place in index..<index + count { x[place] += Float((2 * random.uniform(UInt64(place)) - 1) * most) }
      index += count
    }
  }
}
