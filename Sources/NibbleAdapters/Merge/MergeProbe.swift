import NibbleCompute
import NibbleCore

/// The input a merged matrix is checked on.
///
/// Rounding is as large as the whole matrix makes it. A change of low rank shows on the outputs only as far as the input lies along its
/// factors, and a random one may lie across: little is left to compare, and rounding looks like another matrix. Such an input is moved
/// along the factors until it shows as much of the change as an input does on average, so that a missing change shows as well.
struct MergeProbe {
  let x: FloatStore
  /// Σ ‖Δx‖² over outputs, of inputs like this on average.
  let expected: Double

  /// Inputs the average is taken of.
  private static let samples = 8

  /// - Parameters:
  ///   - factors: of the change
  ///   - range: the outputs that are compared
  init(_ factors: [LowRankFactors], _ range: Range<Int>, inputs: Int) {
    var random = RandomInputs()
    let x = random.next(inputs)
    let others = (0..<Self.samples).map { _ in Self.change(random.next(inputs), factors, range) }
    let expected = others.reduce(0) { $0 + Self.dot($1, $1) } / Double(Self.samples)
    let own = Self.change(x, factors, range)
    let size = Self.dot(own, own)
    self.expected = expected
    self.x = x
    guard size < expected / 4 else { return }
    let along = Self.along(factors, random.next(factors.reduce(0) { $0 + $1.rank }), range, inputs)
    let other = Self.change(along, factors, range)
    let square = Self.dot(other, other), inner = Self.dot(own, other)
    // The t at which ‖Δ(x + t · along)‖² is what is expected.
    let t = (((inner * inner + square * (expected - size)).squareRoot()) - inner) / square
    guard t.isFinite else { return }
    for index in 0..<inputs { x.start[index] += Float(t * Double(along.start[index])) }
  }

  /// An input that all factors read, each as much as it writes.
  private static func along(
    _ factors: [LowRankFactors], _ signs: FloatStore, _ range: Range<Int>, _ inputs: Int
  ) -> FloatStore {
    let x = FloatStore([Float](repeating: 0, count: inputs))
    var at = 0
    for part in factors {
      for k in 0..<part.rank {
        let written = range.reduce(0.0) { $0 + Double(part.b[$1 * part.rank + k]) * Double(part.b[$1 * part.rank + k]) }
        let weight = (signs.start[at] < 0 ? -1 : 1) * abs(part.scale) * written.squareRoot()
        for input in 0..<inputs { x.start[input] += Float(weight * Double(part.a[k * inputs + input])) }
        at += 1
      }
    }
    return x
  }

  /// Δx, for some outputs, without any scaling of outputs.
  private static func change(_ x: FloatStore, _ factors: [LowRankFactors], _ range: Range<Int>) -> [Double] {
    var sum = [Double](repeating: 0, count: range.count)
    for part in factors {
      let inner = part.a.withUnsafeBufferPointer { a in
        (0..<part.rank).map { k in
          var sum = 0.0
          for input in 0..<x.count { sum += Double(a[k * x.count + input]) * Double(x.start[input]) }
          return part.scale * sum
        }
      }
      part.b.withUnsafeBufferPointer { b in
        for (index, output) in range.enumerated() {
          for k in 0..<part.rank { sum[index] += Double(b[output * part.rank + k]) * inner[k] }
        }
      }
    }
    return sum
  }

  private static func dot(_ a: [Double], _ b: [Double]) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
}

/// Numbers between −1 and 1 that are the same every time.
private struct RandomInputs {
  private var state: UInt64 = 0x9E37_79B9_7F4A_7C15

  mutating func next(_ count: Int) -> FloatStore {
    let store = FloatStore(count: count)
    for index in 0..<count {
      state ^= state << 13
      state ^= state >> 7
      state ^= state << 17
      store.start[index] = Float(Int32(truncatingIfNeeded: state >> 16)) / Float(Int32.max)
    }
    return store
  }
}
