/// Weights of tokens in sums over a text: one whose energy is far above the usual counts as if it had less. Massive activations, of a
/// window's first token most often, would rule every sum otherwise.
struct TokenCap {
  /// Times the median energy above which a token is capped; the first tokens tell what is usual.
  private let times: Double
  private var limit: Double?

  init(times: Double) { self.times = times }

  /// The weight of each row of x [rows, width].
  mutating func weights(_ x: UnsafePointer<Float>, _ rows: Int, _ width: Int) -> [Double] {
    let energies = (0..<rows).map { row in
      var sum = 0.0
      for place in 0..<width { sum += Double(x[row * width + place]) * Double(x[row * width + place]) }
      return sum
    }
    let limit = limit ?? times * Self.median(energies)
    self.limit = limit
    return energies.map { limit > 0 && $0 > limit ? limit / $0 : 1 }
  }

  private static func median(_ values: [Double]) -> Double { values.isEmpty ? 0 : values.sorted()[values.count / 2] }

  /// Multiplies rows by the roots of their weights.
  static func scale(_ x: UnsafeMutablePointer<Float>, _ width: Int, by weights: [Double]) {
    for (row, weight) in weights.enumerated() where weight < 1 {
      let root = Float(weight.squareRoot())
      for place in 0..<width { x[row * width + place] *= root }
    }
  }
}
