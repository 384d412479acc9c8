import NibbleCore

/// The bootstrap: a set's items drawn again with replacement, many times, to see how much a figure owes to which items there were
/// (Efron, 1979; for BLEU, Koehn, 2004).
///
/// The same seed gives the same draws, on any machine.
public struct Resampling: Sendable, Equatable {
  public var samples: Int
  public var seed: UInt64

  public init(samples: Int = 1000, seed: UInt64 = 0) { (self.samples, self.seed) = (samples, seed) }

  /// How often each of `items` is drawn in one sample.
  func times(items: Int, sample: Int) -> [Int32] {
    let random = CountedRandom(seed: seed, stream: UInt64(sample))
    var times = [Int32](repeating: 0, count: items)
    times.withUnsafeMutableBufferPointer { times in
      for draw in 0..<items {
        times[Int(random.bits(UInt64(draw)).multipliedFullWidth(by: UInt64(items)).high)] += 1
      }
    }
    return times
  }

  /// The 95 % interval of any figure of a set of items: the 2.5 % and 97.5 % quantiles over the samples (between two values, in
  /// proportion), and as standard error the samples' deviation.
  ///
  /// Samples for which the figure is undefined are left out.
  ///
  /// - Parameter figure: of a sample, from how often each item is in it; not a number where it is undefined
  /// - Returns: nil for fewer than two items, where `value` is no number, or where most samples have no figure
  public func interval(_ value: Double, items: Int, figure: ([Int32]) -> Double) -> Interval? {
    guard items > 1, samples > 1, value.isFinite else { return nil }
    var found: [Double] = []
    for sample in 0..<samples {
      let one = figure(times(items: items, sample: sample))
      if one.isFinite { found.append(one) }
    }
    guard found.count > 1, found.count > samples / 2 else { return nil }
    found.sort()
    func quantile(_ share: Double) -> Double {
      let place = share * Double(found.count - 1)
      let below = Int(place)
      guard below + 1 < found.count else { return found[found.count - 1] }
      return found[below] + (place - Double(below)) * (found[below + 1] - found[below])
    }
    let mean = found.reduce(0, +) / Double(found.count)
    let variance = found.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(found.count - 1)
    return Interval(value, standardError: variance.squareRoot(), quantile(0.025), quantile(0.975), .bootstrap)
  }
}
