import Glibc
import NibbleCore

/// The parameters of Llama 3's rotary positions, found again in the factors by which llama.cpp divides frequencies.
///
/// transformers' `_compute_llama3_parameters`: waves shorter than c/high keep their frequency, those longer than c/low have it divided by
/// `factor`, those between are mixed with s = (c/wave − low) / (high − low), of which 1 / ((1 − s)/factor + s) is what divides.
struct Llama3Scaling {
  let factor, low, high: Double
  let trained: Int

  /// - Returns: nil where no parameters give these factors
  init?(_ factors: [Float], base: Double, size: Int) {
    guard size > 0, factors.count == size / 2, let last = factors.last, last >= 1 else { return nil }
    let factor = Double(last.description) ?? Double(last)
    let waves = (0..<factors.count).map { 2 * Double.pi * pow(base, Double(2 * $0) / Double(size)) }
    // Only c/low and c/high count, so low may be 1; the parameters of Llama 3 and of Llama 4 need no two factors between.
    let usual: [Found] = [(low: 1, high: 4, trained: 8192), (low: 1, high: 1, trained: 8192)]
    let fitting = { (found: Found) in Self.fits(factors, waves, factor, found) }
    guard let found = usual.first(where: fitting) ?? Self.step(factors, waves) ?? Self.passage(factors, waves, factor), fitting(found) else { return nil }
    self.init(factor: factor, found)
  }

  /// Where low and high are the same, any context between two waves gives the factors.
  private static func step(_ factors: [Float], _ waves: [Double]) -> Found? {
    guard let last = factors.last, let long = factors.firstIndex(of: last), long > 0, factors[..<long].allSatisfy({ $0 == 1 }) else { return nil }
    let trained = Int(exactly: (waves[long - 1] * waves[long]).squareRoot().rounded())
    return trained.flatMap { (1...1 << 26).contains($0) ? (1, 1, $0) : nil }
  }

  /// From two factors that are mixed.
  private static func passage(_ factors: [Float], _ waves: [Double], _ factor: Double) -> Found? {
    guard let last = factors.last else { return nil }
    let mixed = factors.indices.filter { factors[$0] > 1 && factors[$0] < last }
    guard let first = mixed.first, let second = mixed.last, first != second, factor > 1 else { return nil }
    // s = a/wave − b between them, with a = c / (high − low) and b = low / (high − low).
    func s(_ index: Int) -> Double { (1 / Double(factors[index]) - 1 / factor) / (1 - 1 / factor) }
    let a = (s(first) - s(second)) / (1 / waves[first] - 1 / waves[second])
    let b = a / waves[first] - s(first)
    guard let trained = Int(exactly: (a / b).rounded()), (1...1 << 26).contains(trained) else { return nil }
    let high = ((1 + 1 / b) * 1e4).rounded() / 1e4
    return high > 1 ? (1, high, trained) : nil
  }

  private typealias Found = (low: Double, high: Double, trained: Int)

  private init(factor: Double, _ found: Found) {
    (self.factor, low, high, trained) = (factor, found.low, found.high, found.trained)
  }

  private static func fits(_ factors: [Float], _ waves: [Double], _ factor: Double, _ found: Found) -> Bool {
    zip(factors, waves).allSatisfy { divisor, wave in
      let c = Double(found.trained)
      let s = (c / wave - found.low) / (found.high - found.low)
      let expected = wave < c / found.high ? 1 : wave > c / found.low ? factor : 1 / ((1 - s) / factor + s)
      return abs(Double(divisor) - expected) <= 2e-5 * expected
    }
  }

  var json: JSON {
    [
      "rope_type": "llama3", "factor": JSON(factor), "low_freq_factor": JSON(low), "high_freq_factor": JSON(high),
      "original_max_position_embeddings": JSON(trained),
    ]
  }
}
