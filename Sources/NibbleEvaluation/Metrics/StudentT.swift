import Glibc

/// Student's t distribution.
enum StudentT {
  /// The value that a variable of `freedom` degrees stays below with probability `p`; infinite for none or less.
  ///
  /// By halving on the distribution's own function, so as exact as that.
  static func quantile(_ p: Double, freedom: Double) -> Double {
    guard p > 0, p < 1, freedom > 0 else { return p >= 1 ? .infinity : p <= 0 ? -.infinity : .nan }
    guard p >= 0.5 else { return -quantile(1 - p, freedom: freedom) }
    var (low, high) = (0.0, 1.0)
    while probability(below: high, freedom: freedom) < p, high < 1e300 { (low, high) = (high, high * 2) }
    while true {
      let middle = low + (high - low) / 2
      guard middle > low, middle < high else { return middle }
      if probability(below: middle, freedom: freedom) < p { low = middle } else { high = middle }
    }
  }

  /// The probability of a value below `t`.
  static func probability(below t: Double, freedom: Double) -> Double {
    let tail = incompleteBeta(freedom / (freedom + t * t), freedom / 2, 0.5) / 2
    return t < 0 ? tail : 1 - tail
  }

  /// The regularized incomplete beta function I_x(a, b).
  static func incompleteBeta(_ x: Double, _ a: Double, _ b: Double) -> Double {
    guard x > 0 else { return 0 }
    guard x < 1 else { return 1 }
    // The fraction converges fast on this side only.
    return x < (a + 1) / (a + b + 2) ? betaFraction(x, a, b) : 1 - betaFraction(1 - x, b, a)
  }

  /// Its continued fraction (Abramowitz and Stegun, 26.5.8) as Lentz evaluates one.
  private static func betaFraction(_ x: Double, _ a: Double, _ b: Double) -> Double {
    let front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x)) / a
    let tiny = 1e-300
    func guarded(_ value: Double) -> Double { abs(value) < tiny ? tiny : value }
    var c = 1.0
    var d = 1 / guarded(1 - (a + b) * x / (a + 1))
    var sum = d
    for step in 1...10_000 {
      let m = Double(step)
      let even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
      d = 1 / guarded(1 + even * d)
      c = guarded(1 + even / c)
      sum *= d * c
      let odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
      d = 1 / guarded(1 + odd * d)
      c = guarded(1 + odd / c)
      let change = d * c
      sum *= change
      if abs(change - 1) < 1e-16 { break }
    }
    return front * sum
  }
}
