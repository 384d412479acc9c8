import Foundation
import NibbleCompute
import NibbleQuant
import TestSupport
import Testing

/// Every operation's way back, against finite differences of its way forth in float64.
@Suite("The way back")
struct BackwardTests {
  static let variants = KernelVariant.allCases.filter(\.runs)

  static func numbers(_ count: Int, _ seed: UInt64) -> [Float] {
    var random = Generator(seed)
    return (0..<count).map { _ in random.normal() }
  }

  /// Σ dy · f(x), differentiated by each x.
  static func slopes(_ x: [Float], _ dy: [Float], _ f: ([Double]) -> [Double]) -> [Double] {
    let at = x.map(Double.init)
    func sum(_ x: [Double]) -> Double { zip(f(x), dy).reduce(0) { $0 + $1.0 * Double($1.1) } }
    return at.indices.map { index in
      let h = 1e-5
      var up = at, down = at
      up[index] += h
      down[index] -= h
      return (sum(up) - sum(down)) / (2 * h)
    }
  }

  static func value(_ f: Activation, _ x: Double) -> Double {
    switch f {
    case .silu: x / (1 + exp(-x))
    case .gelu: x / 2 * (1 + erf(x / 2.0.squareRoot()))
    case .geluTanh: x / 2 * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
    case .relu: max(x, 0)
    case .tanh: tanh(x)
    case .quickGelu: x / (1 + exp(-1.702 * x))
    case .relu2: max(x, 0) * max(x, 0)
    case .sigmoid: 1 / (1 + exp(-x))
    case .mish: x * tanh(log1p(exp(x)))
    case .gelu10: min(x / 2 * (1 + erf(x / 2.0.squareRoot())), 10)
    case .linear: x
    case .leakyRelu: x < 0 ? 0.01 * x : x
    }
  }

  func expect(_ found: [Float], _ wanted: [Double], _ slack: Double = 2e-5) {
    for (x, y) in zip(found, wanted) { #expect(abs(Double(x) - y) <= slack * max(1, abs(y))) }
  }

  @Test("through activations, by themselves and times another", arguments: Activation.allCases, variants)
  func activations(_ f: Activation, _ variant: KernelVariant) {
    let x = Self.numbers(37, 1).dropLast().map { 3 * $0 } + [12], dy = Self.numbers(37, 2), up = Self.numbers(37, 3)
    var dx = [Float](repeating: 0, count: 37), dup = dx
    LayerKernels.activateBack(f, dy, x, count: 37, &dx, variant: variant)
    expect(dx, Self.slopes(x, dy) { $0.map { Self.value(f, $0) } })
    LayerKernels.activateBack(f, dy, gate: x, times: up, count: 37, dgate: &dx, dup: &dup, variant: variant)
    expect(dx, Self.slopes(x, dy) { zip($0, up).map { Self.value(f, $0) * Double($1) } })
    expect(dup, Self.slopes(up, dy) { zip(x, $0).map { Self.value(f, Double($0)) * $1 } })
  }

  @Test("through norms, and to their weights", arguments: [1, 5, 16, 43], variants)
  func norms(_ count: Int, _ variant: KernelVariant) {
    let x = Self.numbers(count, 4), dy = Self.numbers(count, 5), w = Self.numbers(count, 6)
    let epsilon = 1e-3
    func rms(_ x: [Double], _ w: [Double]) -> [Double] {
      let r = 1 / (x.reduce(0) { $0 + $1 * $1 } / Double(count) + epsilon).squareRoot()
      return zip(x, w).map { $0 * r * $1 }
    }
    func layer(_ x: [Double], _ w: [Double]) -> [Double] {
      let mean = x.reduce(0, +) / Double(count)
      let r = 1 / (x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(count) + epsilon).squareRoot()
      return zip(x, w).map { ($0 - mean) * r * $1 }
    }
    let (wd, xd) = (w.map(Double.init), x.map(Double.init))
    var dx = [Float](repeating: 0, count: count), dw = dx, db = dx
    LayerKernels.rmsNormBack(dy, x, weight: w, count: count, epsilon: Float(epsilon), &dx, dw: &dw, variant: variant)
    expect(dx, Self.slopes(x, dy) { rms($0, wd) }, 2e-4)
    expect(dw, Self.slopes(w, dy) { rms(xd, $0) })
    dw = [Float](repeating: 0, count: count)
    LayerKernels.layerNormBack(dy, x, weight: w, count: count, epsilon: Float(epsilon), &dx, dw: &dw, db: &db, variant: variant)
    expect(dx, Self.slopes(x, dy) { layer($0, wd) }, 2e-3)
    expect(dw, Self.slopes(w, dy) { layer(xd, $0) })
    #expect(db == dy)
    // In place, and without weights' gradients.
    var same = dy
    same.withUnsafeMutableBufferPointer { buffer in
      guard let start = buffer.baseAddress else { return }
      LayerKernels.layerNormBack(start, x, weight: w, count: count, epsilon: Float(epsilon), start, variant: variant)
    }
    #expect(same == dx)
  }

  @Test("through softmax", arguments: [1, 7, 33], variants)
  func softmax(_ count: Int, _ variant: KernelVariant) {
    let x = Self.numbers(count, 7), dy = Self.numbers(count, 8)
    func soft(_ x: [Double]) -> [Double] {
      let e = x.map { exp(0.5 * $0) }
      let sum = e.reduce(0, +)
      return e.map { $0 / sum }
    }
    var d = dy
    LayerKernels.softmaxBack(soft(x.map(Double.init)).map { Float($0) }, &d, count: count, scale: 0.5, variant: variant)
    expect(d, Self.slopes(x, dy, soft))
  }

  @Test(
    "through attention: queries, keys, values, sinks",
    arguments: [
      (true, Int?.none, false, Float?.none, false), (true, 3, false, nil, false), (false, nil, false, nil, false), (false, nil, true, nil, false),
      (true, nil, false, 0.7, false), (false, nil, true, 0.7, false), (false, 3, false, nil, false), (false, 5, true, nil, false),
      (true, nil, false, nil, true), (true, 3, false, nil, true), (false, nil, true, 0.7, true),
    ])
  func attention(_ isCausal: Bool, _ window: Int?, _ isMasked: Bool, _ cap: Float?, _ hasSinks: Bool) throws {
    let (heads, groups, size, valueSize, tokens) = (4, 2, 6, 4, 9)
    let attention = Attention(
      heads: heads, keyValueHeads: groups, size: size, valueSize: valueSize, scale: 0.4, isCausal: isCausal, cap: cap)
    let values = (heads + groups) * size, stride = values + groups * valueSize
    // Sinks follow the tokens.
    let sinks = tokens * stride
    let x = Self.numbers(sinks + (hasSinks ? heads : 0), 9), dy = Self.numbers(tokens * heads * valueSize, 10)
    let mask: [UInt8] = (0..<tokens).map { isMasked && $0 > 5 ? 0 : 1 }
    func forward(_ x: [Double]) -> [Double] {
      var out = [Double](repeating: 0, count: tokens * heads * valueSize)
      for token in 0..<tokens {
        for head in 0..<heads {
          let q = token * stride + head * size
          let seen = (0..<tokens).filter { key in
            mask[key] != 0 && (!isCausal || key <= token) && (window.map { key > token - $0 && key < token + $0 } ?? true)
          }
          let scores = seen.map { key in
            let score = 0.4 * (0..<size).reduce(0.0) { $0 + x[q + $1] * x[key * stride + (heads + head / (heads / groups)) * size + $1] }
            return exp(cap.map { Double($0) * tanh(score / Double($0)) } ?? score)
          }
          let sum = scores.reduce(hasSinks ? exp(x[sinks + head]) : 0, +)
          for (score, key) in zip(scores, seen) {
            let v = key * stride + values + head / (heads / groups) * valueSize
            for i in 0..<valueSize { out[(token * heads + head) * valueSize + i] += score / sum * x[v + i] }
          }
        }
      }
      return out
    }
    var dx = [Float](repeating: 7, count: x.count), out = [Float](repeating: 0, count: dy.count)
    try x.withUnsafeBufferPointer { x in
      try dx.withUnsafeMutableBufferPointer { dx in
        try out.withUnsafeMutableBufferPointer { out in
          try dy.withUnsafeBufferPointer { dy in
            try mask.withUnsafeBufferPointer { mask in
              let (q, d) = (try #require(x.baseAddress), try #require(dx.baseAddress))
              var sequence = Attention.Sequence(
                query: q, queryStride: stride, key: q + heads * size, value: q + values, keyStride: stride,
                keyHeadStride: size, past: 0, new: tokens, window: window, mask: isMasked ? mask.baseAddress : nil,
                output: try #require(out.baseAddress), outputStride: heads * valueSize)
              sequence.valueHeadStride = valueSize
              if hasSinks { sequence.sinks = q + sinks }
              let gradient = Attention.Gradient(
                output: try #require(dy.baseAddress), outputStride: heads * valueSize, query: d, key: d + heads * size,
                value: d + values, stride: stride, sinks: hasSinks ? d + sinks : nil)
              attention.backward([(sequence, gradient)], Team(threads: 2))
            }
          }
        }
      }
    }
    expect(dx, Self.slopes(x, dy, forward), 1e-4)
  }
}
