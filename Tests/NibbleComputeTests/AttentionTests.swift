import Foundation
import NibbleCompute
import NibbleCore
import TestSupport
import Testing

@Suite("Attention")
struct AttentionTests {
  struct Case: Sendable, CustomTestStringConvertible {
    var heads = 4, keyValueHeads = 2, size = 16, past = 0, new = 5
    var isCausal = true
    var window: Int?
    var chunk: Int?
    /// Tokens before the first chunk.
    var chunkStart = 0
    var hidden: Set<Int> = []
    var threads = 1
    var cap: Float?
    var hasSinks = false
    /// Numbers in a head of values; nil for as many as in one of keys.
    var ownValueSize: Int?
    var valueSize: Int { ownValueSize ?? size }
    /// Of a head.
    func sink(_ head: Int) -> Float { 0.5 * Float(head) - 0.7 }
    var testDescription: String {
      "\(heads)/\(keyValueHeads) x \(size), \(past)+\(new), \(isCausal), \(window ?? 0), \(chunk ?? 0), \(hidden.count), \(threads), \(cap ?? 0), \(hasSinks), \(valueSize)"
    }
  }

  static let cases = [
    Case(), Case(heads: 1, keyValueHeads: 1, size: 5, new: 1), Case(past: 7, new: 1), Case(past: 200, new: 130, threads: 3),
    Case(past: 9, new: 70),
    Case(new: 100, isCausal: false), Case(new: 100, window: 7), Case(past: 30, new: 90, window: 40, threads: 2),
    Case(past: 30, new: 1, window: 4),
    Case(new: 6, isCausal: false, hidden: [0, 4]), Case(new: 70, hidden: [1, 2, 69]),
    Case(heads: 8, keyValueHeads: 1, size: 80, past: 3, new: 2), Case(past: 7, new: 1, cap: 0.8),
    Case(past: 9, new: 70, window: 30, hidden: [3, 60], cap: 0.8),
    Case(past: 7, new: 1, hasSinks: true), Case(past: 30, new: 90, window: 40, threads: 2, hasSinks: true),
    Case(new: 70, hidden: [0, 1, 69], hasSinks: true), Case(new: 9, isCausal: false, cap: 0.8, hasSinks: true),
    Case(past: 7, new: 1, chunk: 3), Case(past: 8, new: 1, chunk: 3), Case(past: 30, new: 90, chunk: 7, threads: 2), Case(new: 100, chunk: 200),
    Case(past: 2, new: 80, window: 4, chunk: 9, hasSinks: true), Case(new: 20, chunk: 4, chunkStart: 6, hidden: [0, 1, 2, 3, 4, 5], hasSinks: true),
    Case(past: 7, new: 1, ownValueSize: 5), Case(past: 9, new: 70, ownValueSize: 24), Case(past: 30, new: 90, window: 40, threads: 2, ownValueSize: 1),
  ]

  /// By the definition, in float64.
  static func expected(_ c: Case, _ q: [Float], _ k: [Float], _ v: [Float]) -> [Float] {
    var out: [Float] = []
    for token in 0..<c.new {
      for head in 0..<c.heads {
        let group = head / (c.heads / c.keyValueHeads)
        let seen = (0..<c.past + c.new).filter { key in
          let isBefore = !c.isCausal || (key <= c.past + token && key > c.past + token - (c.window ?? .max / 2))
          // Tokens before the first chunk are chunks of their own.
          func chunk(_ place: Int) -> Int { c.chunk.map { place < c.chunkStart ? -1 - place : (place - c.chunkStart) / $0 } ?? 0 }
          return isBefore && chunk(key) == chunk(c.past + token) && !c.hidden.contains(key)
        }
        let scores = seen.map { key in
          (0..<c.size).reduce(0.0) {
            $0 + Double(q[(token * c.heads + head) * c.size + $1]) * Double(k[(key * c.keyValueHeads + group) * c.size + $1])
          } / Double(c.size).squareRoot()
        }.map { score in c.cap.map { Double($0) * tanh(score / Double($0)) } ?? score }
        let sink = Double(c.sink(head)), most = max(scores.max() ?? 0, c.hasSinks ? sink : -.infinity)
        let weights = scores.map { exp($0 - most) }
        let sum = weights.reduce(c.hasSinks ? exp(sink - most) : 0, +)
        for i in 0..<c.valueSize {
          out.append(
            Float(zip(seen, weights).reduce(0.0) { $0 + $1.1 / sum * Double(v[($1.0 * c.keyValueHeads + group) * c.valueSize + i]) }))
        }
      }
    }
    return out
  }

  @Test("is what its definition says", arguments: cases)
  func definition(c: Case) throws {
    var random = Generator(3)
    func numbers(_ count: Int) -> [Float] { (0..<count).map { _ in random.normal() } }
    let (q, k, v) = (
      numbers(c.new * c.heads * c.size), numbers((c.past + c.new) * c.keyValueHeads * c.size),
      numbers((c.past + c.new) * c.keyValueHeads * c.valueSize)
    )
    var out = [Float](repeating: .nan, count: c.new * c.heads * c.valueSize)
    let mask = (0..<c.past + c.new).map { UInt8(c.hidden.contains($0) ? 0 : 1) }
    let sinks = FloatStore((0..<c.heads).map(c.sink))
    let attention = Attention(
      heads: c.heads, keyValueHeads: c.keyValueHeads, size: c.size, valueSize: c.valueSize, scale: 1 / Float(c.size).squareRoot(),
      isCausal: c.isCausal, cap: c.cap)
    q.withUnsafeBufferPointer { q in
      k.withUnsafeBufferPointer { k in
        v.withUnsafeBufferPointer { v in
          mask.withUnsafeBufferPointer { mask in
            out.withUnsafeMutableBufferPointer { out in
              let stride = c.heads * c.size
              guard let q = q.baseAddress, let k = k.baseAddress, let v = v.baseAddress, let out = out.baseAddress else { return }
              var sequence = Attention.Sequence(
                query: q, queryStride: stride, key: k, value: v, keyStride: c.keyValueHeads * c.size, keyHeadStride: c.size,
                past: c.past, new: c.new, window: c.window, mask: c.hidden.isEmpty ? nil : mask.baseAddress, output: out,
                outputStride: c.heads * c.valueSize)
              (sequence.valueStride, sequence.valueHeadStride) = (c.keyValueHeads * c.valueSize, c.valueSize)
              (sequence.chunk, sequence.chunkStart) = (c.chunk, c.chunkStart)
              if c.hasSinks { sequence.sinks = UnsafePointer(sinks.start) }
              attention.run([sequence], Team(threads: c.threads))
            }
          }
        }
      }
    }
    let expected = Self.expected(c, q, k, v)
    #expect(zip(out, expected).allSatisfy { abs($0 - $1) <= 3e-6 || ($1.isNaN && $0 == 0) })
  }
}
