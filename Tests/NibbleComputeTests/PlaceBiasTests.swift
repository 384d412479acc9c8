import Foundation
import NibbleCompute
import TestSupport
import Testing

/// Numbers that are added to scores by place, and tokens that ask others than themselves: against the formula in float64 and its finite differences.
@Suite("Places and other texts in attention")
struct PlaceBiasTests {
  private static let heads = 3, size = 4, width = 12

  struct Case: Sendable, CustomTestStringConvertible {
    var new = 7, past = 0
    var others: Int?
    var isCausal = false, hasBias = true, isMasked = false
    var keys: Int { others ?? past + new }
    /// Places that a key may have less that of its query, and how many are below 0.
    var places: Int { past + new + keys }
    var center: Int { past + new - 1 }
    var testDescription: String { "\(past)+\(new), \(others ?? 0), \(isCausal), \(hasBias), \(isMasked)" }
  }

  static let cases = [
    Case(), Case(isCausal: true), Case(isMasked: true), Case(new: 90, isCausal: true), Case(new: 90), Case(new: 1, past: 6, isCausal: true),
    Case(new: 70, past: 30, isCausal: true), Case(others: 11, hasBias: false), Case(new: 1, others: 5, hasBias: false),
    Case(new: 80, others: 3, hasBias: false, isMasked: true), Case(new: 5, others: 9, hasBias: false, isMasked: true),
  ]

  /// Outputs of queries [new, width], keys and values side by side [keys, 2 · width] and numbers [heads, places].
  private static func forward(_ c: Case, _ q: [Double], _ kv: [Double], _ bias: [Double], _ mask: [UInt8]) -> [Double] {
    var out = [Double](repeating: 0, count: c.new * width)
    for token in 0..<c.new {
      for head in 0..<heads {
        let seen = (0..<c.keys).filter { mask[$0] != 0 && (!c.isCausal || $0 <= c.past + token) }
        let scores = seen.map { key in
          let dot = (0..<size).reduce(0.0) { $0 + q[token * width + head * size + $1] * kv[key * 2 * width + head * size + $1] }
          return exp(0.3 * dot + (c.hasBias ? bias[head * c.places + c.center + key - c.past - token] : 0))
        }
        let sum = scores.reduce(0, +)
        for (score, key) in zip(scores, seen) {
          for i in 0..<size { out[token * width + head * size + i] += score / sum * kv[key * 2 * width + width + head * size + i] }
        }
      }
    }
    return out
  }

  @Test("outputs, and gradients of queries, keys, values and numbers", arguments: cases)
  func definition(_ c: Case) throws {
    let width = Self.width
    let q = BackwardTests.numbers(c.new * width, 1), kv = BackwardTests.numbers(c.keys * 2 * width, 2)
    let bias = BackwardTests.numbers(Self.heads * c.places, 3), dy = BackwardTests.numbers(c.new * width, 4)
    let mask: [UInt8] = (0..<c.keys).map { c.isMasked && $0 % 3 == 1 ? 0 : 1 }
    let (queries, answers, numbers, dOut) = (FloatStore(q), FloatStore(kv), FloatStore(bias), FloatStore(dy))
    let out = FloatStore(count: q.count), dQ = FloatStore(count: q.count), dKV = FloatStore(count: kv.count), dBias = FloatStore(count: bias.count)
    dBias.start.update(repeating: 0, count: dBias.count)
    let attention = Attention(heads: Self.heads, keyValueHeads: Self.heads, size: Self.size, scale: 0.3, isCausal: c.isCausal)
    try mask.withUnsafeBufferPointer { mask in
      var sequence = Attention.Sequence(
        query: queries.start, queryStride: width, key: answers.start, value: answers.start + width, keyStride: 2 * width, keyHeadStride: Self.size,
        past: c.past, new: c.new, window: nil, mask: c.isMasked ? try #require(mask.baseAddress) : nil, output: out.start, outputStride: width)
      sequence.others = c.others
      if c.hasBias { (sequence.bias, sequence.biasStride) = (UnsafePointer(numbers.start + c.center), c.places) }
      attention.run([sequence], Team(threads: 2))
      guard c.past == 0 else { return }
      var gradient = Attention.Gradient(
        output: dOut.start, outputStride: width, query: dQ.start, key: dKV.start, value: dKV.start + width, stride: width, keyStride: 2 * width)
      if c.hasBias { gradient.bias = dBias.start + c.center }
      attention.backward([(sequence, gradient)], Team(threads: 2))
    }
    func doubles(_ values: [Float]) -> [Double] { values.map(Double.init) }
    let given = (doubles(q), doubles(kv), doubles(bias))
    for (found, wanted) in zip(out.values, Self.forward(c, given.0, given.1, given.2, mask)) { #expect(abs(Double(found) - wanted) < 1e-5) }
    // Caches are for passes without a way back; long sequences would take their time.
    guard c.past == 0, c.new < 20 else { return }
    let slopes = [
      (dQ, BackwardTests.slopes(q, dy) { Self.forward(c, $0, given.1, given.2, mask) }),
      (dKV, BackwardTests.slopes(kv, dy) { Self.forward(c, given.0, $0, given.2, mask) }),
      (dBias, BackwardTests.slopes(bias, dy) { Self.forward(c, given.0, given.1, $0, mask) }),
    ]
    for (found, wanted) in slopes {
      for (x, y) in zip(found.values, wanted) { #expect(abs(Double(x) - y) <= 1e-4 * max(1, abs(y))) }
    }
  }
}
