import Foundation
import NibbleCompute
import NibbleQuant
import TestSupport
import Testing

private let variants = KernelVariant.allCases.filter(\.runs)

/// Lengths around every register's width, and long ones.
private let lengths = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 896, 1030, 4096]

private func normals(_ count: Int, _ seed: Int, scale: Float = 1) -> [Float] {
  var generator = Generator(UInt64(seed + 1))
  return (0..<count).map { _ in generator.normal() * scale }
}

/// The greatest |a - b|, each in units of max(1, |b|); NaN counts as infinite, except beside NaN.
private func distance(_ a: [Float], _ b: [Double]) -> Double {
  guard a.count == b.count else { return .infinity }
  return zip(a, b).reduce(0) { worst, pair in
    let (a, b) = (Double(pair.0), pair.1)
    if a.isNaN || b.isNaN { return a.isNaN && b.isNaN ? worst : .infinity }
    return a == b ? worst : max(worst, abs(a - b) / max(1, abs(b)))
  }
}

@Suite("Layers between products")
struct LayerKernelTests {
  @Test("norms", arguments: variants) func norms(_ variant: KernelVariant) {
    for n in lengths {
      for (scale, shift) in [(1, 0), (1e-3, 100), (1e20, 0)] as [(Float, Float)] {
        let x = normals(n, n, scale: scale).map { $0 + shift }, weight = normals(n, n + 1), bias = normals(n, n + 2)
        let wide = x.map(Double.init)
        let mean = wide.reduce(0, +) / Double(n), squares = wide.reduce(0) { $0 + $1 * $1 } / Double(n)
        let variance = wide.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(n)
        var out = x
        LayerKernels.rmsNorm(x, weight: weight, count: n, epsilon: 1e-6, &out, variant: variant)
        #expect(distance(out, (0..<n).map { wide[$0] / (squares + 1e-6).squareRoot() * Double(weight[$0]) }) < 3e-7)

        let centred = (0..<n).map { (wide[$0] - mean) / (variance + 1e-6).squareRoot() * Double(weight[$0]) }
        LayerKernels.layerNorm(x, weight: weight, bias: nil, count: n, epsilon: 1e-6, &out, variant: variant)
        #expect(distance(out, centred) < 1e-6)
        var inPlace = x
        LayerKernels.layerNorm(x, weight: weight, bias: bias, count: n, epsilon: 1e-6, &out, variant: variant)
        inPlace.withUnsafeMutableBufferPointer {
          let pointer = $0.baseAddress!
          LayerKernels.layerNorm(pointer, weight: weight, bias: bias, count: n, epsilon: 1e-6, pointer, variant: variant)
        }
        #expect(distance(out, (0..<n).map { centred[$0] + Double(bias[$0]) }) < 2e-6)
        #expect(inPlace == out)
      }
    }
  }

  @Test("activations", arguments: variants) func activations(_ variant: KernelVariant) {
    var x = Array(stride(from: Float(-30), through: 30, by: 0.003))
    x += (-149..<128).flatMap { exponent in [Float(sign: .plus, exponent: exponent, significand: 1.3)].flatMap { [$0, -$0] } }
    x += [.nan, .infinity, 0]
    let up = normals(x.count, 5)
    for f in Activation.allCases {
      let exact = x.map { narrow -> Double in
        let x = Double(narrow)
        return switch f {
        case .silu: x / (1 + exp(-x))
        case .gelu: x * erfc(-x / 2.0.squareRoot()) / 2
        case .geluTanh: x / (1 + exp(-2 * (2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
        case .relu: x < 0 ? 0 : x
        case .tanh: tanh(x)
        case .quickGelu: x / (1 + exp(-1.702 * x))
        case .relu2: x < 0 ? 0 : x * x
        case .sigmoid: 1 / (1 + exp(-x))
        case .mish: x * tanh(x > 40 ? x : log1p(exp(x)))
        case .gelu10: x.isNaN ? x : min(x * erfc(-x / 2.0.squareRoot()) / 2, 10)
        case .linear: x
        case .leakyRelu: x < 0 ? Double(Float(0.01)) * x : x
        }
      }
      var out = x
      LayerKernels.activate(f, x, count: x.count, &out, variant: variant)
      // For x < 0 the results may be far smaller than x, so the bound is in x.
      #expect(
        zip(zip(out, exact), x).allSatisfy { pair, x in
          let (a, b) = (Double(pair.0), pair.1)
          return a == Double(Float(b)) || a.isNaN && b.isNaN || abs(a - b) <= 4e-7 * max(1, abs(Double(x)), abs(b))
        }, "\(f)")
      let tiny = x.indices.filter { abs(x[$0]) > 1e-30 && abs(x[$0]) < 1e-2 && abs(exact[$0]) > 1e-37 }
      #expect(tiny.allSatisfy { abs(Double(out[$0]) / exact[$0] - 1) < 1e-6 }, "\(f)")
      var product = x
      LayerKernels.activate(f, gate: x, times: up, count: x.count, &product, variant: variant)
      #expect(zip(product, zip(out, up)).allSatisfy { $0 == $1.0 * $1.1 || $0.isNaN && ($1.0 * $1.1).isNaN }, "\(f)")

      // -infinity gives its limit or NaN.
      var end: Float = 0
      LayerKernels.activate(f, [-.infinity], count: 1, &end, variant: variant)
      let limits: [Activation: Float] = [
        .relu: 0, .relu2: 0, .sigmoid: 0, .tanh: -1, .linear: -.infinity, .leakyRelu: -.infinity,
      ]
      #expect(limits[f].map { end == $0 } ?? end.isNaN, "\(f)")
    }
  }

  @Test("softmax and log of sums of exponentials", arguments: variants) func softmax(_ variant: KernelVariant) {
    for n in lengths + [32000] {
      let scale: Float = n % 2 == 0 ? 1 : 0.125
      var x = normals(n, n, scale: 5)
      for i in stride(from: 1, to: n, by: 3) { x[i] = -.infinity }
      let greatest = Double(x.max()!), exponentials = x.map { exp(Double(scale) * (Double($0) - greatest)) }
      let sum = exponentials.reduce(0, +)
      var out = x
      LayerKernels.softmax(&out, count: n, scale: scale, variant: variant)
      #expect(zip(out, exponentials).allSatisfy { abs(Double($0) - $1 / sum) <= 4e-6 * $1 / sum + 1e-37 })
      #expect(abs(out.reduce(0.0) { $0 + Double($1) } - 1) < 1e-6)
      let plain = x.reduce(0.0) { $0 + exp(Double($1) - greatest) }
      #expect(abs(LayerKernels.logSumExp(x, count: n, variant: variant) - log(plain) - greatest) < 1e-6)

      x[n / 2] = .nan
      LayerKernels.softmax(&x, count: n, variant: variant)
      #expect(x.allSatisfy { $0.isNaN })
      #expect(LayerKernels.logSumExp(x, count: n, variant: variant).isNaN)
      x = Array(repeating: -.infinity, count: n)
      LayerKernels.softmax(&x, count: n, scale: scale, variant: variant)
      #expect(x.allSatisfy { $0 == 0 })
    }
    #expect(LayerKernels.logSumExp([], count: 0, variant: variant) == -.infinity)
    #expect(LayerKernels.logSumExp([1, .infinity], count: 2, variant: variant) == .infinity)
    #expect(LayerKernels.logSumExp([-.infinity], count: 1, variant: variant) == -.infinity)
  }

  @Test("sums, products and rotations", arguments: variants) func small(_ variant: KernelVariant) {
    for n in lengths {
      let x = normals(n, n), before = normals(n, n + 1)
      var y = before
      LayerKernels.add(x, count: n, to: &y, variant: variant)
      #expect(y == zip(before, x).map { $0 + $1 })
      y = before
      LayerKernels.add(x, scaledBy: -1.7, count: n, to: &y, variant: variant)
      #expect(distance(y, zip(before, x).map { Double($0) - Double(Float(1.7)) * Double($1) }) < 3e-7)
      y = before
      LayerKernels.multiply(&y, by: x, count: n, variant: variant)
      #expect(y == zip(before, x).map { $0 * $1 })

      let cosines = x.map { cos($0) }, sines = x.map { sin($0) }
      var pair = before + x
      LayerKernels.rotate(&pair, cosines: cosines, sines: sines, half: n, variant: variant)
      let first = (0..<n).map { Double(before[$0]) * Double(cosines[$0]) - Double(x[$0]) * Double(sines[$0]) }
      let second = (0..<n).map { Double(x[$0]) * Double(cosines[$0]) + Double(before[$0]) * Double(sines[$0]) }
      #expect(distance(pair, first + second) < 3e-7)
    }
  }

  @Test("the greatest, and whether all are finite", arguments: variants) func search(_ variant: KernelVariant) {
    for n in lengths {
      var x = normals(n, n)
      for at in Set([0, n / 3, n - 1]).sorted(by: >) {
        x[at] = 100
        #expect(LayerKernels.argmax(x, count: n, variant: variant) == (at, 100))
        #expect(LayerKernels.allFinite(x, count: n, variant: variant))
        var bad = x
        for value in [-.infinity, .infinity, .nan] as [Float] {
          bad[n - 1] = value
          #expect(!LayerKernels.allFinite(bad, count: n, variant: variant))
        }
        bad[at] = .nan
        let found = LayerKernels.argmax(bad, count: n, variant: variant)
        #expect(found.index == at && found.value.isNaN)
      }
      x = Array(repeating: -.infinity, count: n)
      #expect(LayerKernels.argmax(x, count: n, variant: variant) == (0, -.infinity))
    }
    #expect(LayerKernels.argmax([], count: 0, variant: variant) == (0, -.infinity))
    #expect(LayerKernels.allFinite([], count: 0, variant: variant))
  }

  @Test("attention", arguments: variants) func attention(_ variant: KernelVariant) {
    for width in [1, 8, 16, 20, 64, 80, 96, 128] {
      for (queries, t) in [(1, 1), (1, 33), (2, 5), (3, 70), (4, 32), (5, 100), (7, 3), (8, 0)] {
        let stride = width + 3, scale = 1 / Float(width).squareRoot()
        let q = normals(queries * stride, t + width), k = normals(max(t, 1) * stride, t + width + 1)
        let v = normals(max(t, 1) * stride, t + width + 2)
        for (masked, cap) in [(false, Float?.none), (true, nil), (true, 0.6)] {
          let mask = (0..<max(t, 1)).map { UInt8(masked && $0 % 3 == 1 ? 0 : 1) }
          var keys = k, values = v
          // What is not to be seen may be anything.
          for i in 0..<t where mask[i] == 0 {
            keys[i * stride] = .nan
            values[i * stride] = .nan
          }
          var out = [Float](repeating: 42, count: queries * stride), scratch = [Float](repeating: .nan, count: queries * t + 1)
          LayerKernels.attend(
            q, queries: queries, queryStride: stride, keys: keys, values: values, count: t, keyStride: stride, width: width,
            scale: scale, cap: cap, mask: masked ? mask : nil, &out, outStride: stride, scratch: &scratch, variant: variant)
          var worst = 0.0
          for g in 0..<queries {
            let seen = (0..<t).filter { mask[$0] != 0 }
            let scores = seen.map { i in
              (0..<width).reduce(0.0) { $0 + Double(q[g * stride + $1]) * Double(k[i * stride + $1]) } * Double(scale)
            }.map { score in cap.map { Double($0) * tanh(score / Double($0)) } ?? score }
            let weights = scores.map { exp($0 - scores.max()!) }, sum = weights.reduce(0, +)
            for c in 0..<width {
              let exact = zip(seen, weights).reduce(0.0) { $0 + $1.1 * Double(v[$1.0 * stride + c]) } / (t == 0 ? 1 : sum)
              worst = max(worst, abs(Double(out[g * stride + c]) - exact))
            }
            #expect(out[g * stride + width] == 42)
          }
          #expect(worst < 5e-6, "width \(width), \(queries) queries, \(t) keys")
        }
      }
    }
  }

  @Test("attention with values of another length, biases and sinks", arguments: variants) func attentionOfMore(_ variant: KernelVariant) {
    for (width, valueWidth) in [(96, 64), (16, 40), (20, 20), (576, 512)] {
      for (queries, t) in [(1, 1), (1, 33), (3, 70), (5, 100), (2, 0)] {
        let stride = width + 5, valueStride = valueWidth + 3, scale = 1 / Float(width).squareRoot()
        let q = normals(queries * stride, t), k = normals(max(t, 1) * stride, t + 1), v = normals(max(t, 1) * valueStride, t + 2)
        let biases = normals(queries * (t + 2), t + 3), sinks = normals(queries, t + 4)
        for (biased, sunk, masked, cap) in [(false, false, false, Float?.none), (true, false, true, nil), (false, true, true, nil), (true, true, false, 0.6)] {
          let mask = (0..<max(t, 1)).map { UInt8(masked && $0 % 3 != 1 ? 0 : 1) }
          var out = [Float](repeating: 42, count: queries * valueStride), scratch = [Float](repeating: .nan, count: queries * (t + 1))
          LayerKernels.attend(
            q, queries: queries, queryStride: stride, keys: k, values: v, count: t, keyStride: stride, valueStride: valueStride, width: width,
            valueWidth: valueWidth, scale: scale, cap: cap, bias: biased ? biases : nil, biasStride: t + 2, mask: masked ? mask : nil,
            sinks: sunk ? sinks : nil, &out, outStride: valueStride, scratch: &scratch, variant: variant)
          var worst = 0.0
          for g in 0..<queries {
            let seen = (0..<t).filter { mask[$0] != 0 }
            let scores = seen.map { i in
              let score = (0..<width).reduce(0.0) { $0 + Double(q[g * stride + $1]) * Double(k[i * stride + $1]) } * Double(scale)
              return (cap.map { Double($0) * tanh(score / Double($0)) } ?? score) + (biased ? Double(biases[g * (t + 2) + i]) : 0)
            }
            let weights = scores.map { exp($0) }, sum = weights.reduce(sunk ? exp(Double(sinks[g])) : 0, +)
            for c in 0..<valueWidth {
              let exact = seen.isEmpty ? 0 : zip(seen, weights).reduce(0.0) { $0 + $1.1 * Double(v[$1.0 * valueStride + c]) } / sum
              worst = max(worst, abs(Double(out[g * valueStride + c]) - exact))
            }
            #expect(out[g * valueStride + valueWidth] == 42)
          }
          #expect(worst < 5e-6, "widths \(width) and \(valueWidth), \(queries) queries, \(t) keys")
        }
      }
    }
  }

  @Test("a NaN among keys or values is not lost", arguments: variants) func attentionOfNaN(_ variant: KernelVariant) {
    let q = normals(64, 1), v = normals(5 * 64, 3)
    var k = normals(5 * 64, 2), out = [Float](repeating: 0, count: 64), scratch = [Float](repeating: 0, count: 5)
    k[4 * 64 + 63] = .nan
    LayerKernels.attend(
      q, queries: 1, queryStride: 64, keys: k, values: v, count: 5, keyStride: 64, width: 64, scale: 1, &out, outStride: 64,
      scratch: &scratch, variant: variant)
    #expect(out.allSatisfy { $0.isNaN })
  }
}
