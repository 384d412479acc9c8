import Foundation
import NibbleCompute
import TestSupport
import Testing

/// Attention that weighs distances, against its formula in float64 and the finite differences of it.
@Suite("Distances in attention")
struct RelativeAttentionTests {
  private let heads = 3, size = 4, tokens = 7, count = 9, center = 4
  /// Far distances share rows, and the farthest lie beyond the table.
  private let steps = [0, 1, 2, 3, 3, 4, 5]
  private var stride: Int { 3 * heads * size }

  private func row(_ query: Int, _ key: Int) -> Int {
    let step = query >= key ? steps[query - key] : -steps[key - query]
    return min(max(center + step, 0), count - 1)
  }

  /// Outputs of queries, keys and values side by side, and of a table of keys and queries side by side.
  private func forward(_ x: [Double], _ table: [Double], _ terms: (keys: Bool, queries: Bool), _ mask: [UInt8]) -> [Double] {
    let width = heads * size, tableStride = 2 * width
    var out = [Double](repeating: 0, count: tokens * width)
    for token in 0..<tokens {
      for head in 0..<heads {
        func dot(_ a: ArraySlice<Double>, _ b: ArraySlice<Double>) -> Double { zip(a, b).reduce(0) { $0 + $1.0 * $1.1 } }
        func part(_ numbers: [Double], _ at: Int) -> ArraySlice<Double> { numbers[at..<at + size] }
        let query = part(x, token * stride + head * size)
        let seen = (0..<tokens).filter { mask[$0] != 0 }
        let scores = seen.map { other in
          let key = part(x, other * stride + width + head * size), at = row(token, other) * tableStride + head * size
          var score = dot(query, key)
          if terms.keys { score += dot(query, part(table, at)) }
          if terms.queries { score += dot(key, part(table, at + width)) }
          return exp(0.3 * score)
        }
        let sum = scores.reduce(0, +)
        for (score, other) in zip(scores, seen) {
          for i in 0..<size { out[token * width + head * size + i] += score / sum * x[other * stride + 2 * width + head * size + i] }
        }
      }
    }
    return out
  }

  @Test(
    "outputs, gradients of queries, keys and values, and of both tables",
    arguments: [(true, true, false), (true, false, false), (false, true, true), (false, false, false), (true, true, true)])
  func distances(_ hasKeys: Bool, _ hasQueries: Bool, _ isMasked: Bool) throws {
    let width = heads * size
    let x = BackwardTests.numbers(tokens * stride, 1), table = BackwardTests.numbers(count * 2 * width, 2)
    let dy = BackwardTests.numbers(tokens * width, 3)
    let mask: [UInt8] = (0..<tokens).map { isMasked && $0 > 4 ? 0 : 1 }
    let out = FloatStore(count: tokens * width), dx = FloatStore(count: x.count), dTable = FloatStore(count: table.count)
    dTable.start.update(repeating: 0, count: table.count)
    let (stored, storedTable, storedDy) = (FloatStore(x), FloatStore(table), FloatStore(dy))
    try mask.withUnsafeBufferPointer { mask in
      let attention = RelativeAttention(
        Attention(heads: heads, keyValueHeads: heads, size: size, scale: 0.3, isCausal: false),
        keys: hasKeys ? UnsafePointer(storedTable.start) : nil, queries: hasQueries ? UnsafePointer(storedTable.start + width) : nil,
        stride: 2 * width, count: count, steps: steps, center: center)
      let sequence = Attention.Sequence(
        query: stored.start, queryStride: stride, key: stored.start + width, value: stored.start + 2 * width, keyStride: stride,
        keyHeadStride: size, past: 0, new: tokens, window: nil, mask: isMasked ? try #require(mask.baseAddress) : nil,
        output: out.start, outputStride: width)
      let gradient = Attention.Gradient(
        output: storedDy.start, outputStride: width, query: dx.start, key: dx.start + width, value: dx.start + 2 * width, stride: stride)
      attention.run([sequence], Team(threads: 2))
      let tables = RelativeAttention.TableGradient(
        keys: hasKeys ? dTable.start : nil, queries: hasQueries ? dTable.start + width : nil)
      attention.backward([(sequence, gradient)], tables, Team(threads: 2))
    }
    let terms = (hasKeys, hasQueries), numbers = (x.map(Double.init), table.map(Double.init))
    for (found, wanted) in zip(out.values, forward(numbers.0, numbers.1, terms, mask)) { #expect(abs(Double(found) - wanted) < 1e-5) }
    let slopes = BackwardTests.slopes(x, dy) { forward($0, numbers.1, terms, mask) }
    for (found, wanted) in zip(dx.values, slopes) { #expect(abs(Double(found) - wanted) <= 1e-4 * max(1, abs(wanted))) }
    let tableSlopes = BackwardTests.slopes(table, dy) { forward(numbers.0, $0, terms, mask) }
    for (found, wanted) in zip(dTable.values, tableSlopes) { #expect(abs(Double(found) - wanted) <= 1e-4 * max(1, abs(wanted))) }
  }
}
