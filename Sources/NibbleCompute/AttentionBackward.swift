import NibbleCore

extension Attention {
  /// What comes back to one sequence's queries, keys and values.
  package struct Gradient {
    /// As `Sequence.output`.
    package var output: UnsafePointer<Float>
    package var outputStride: Int
    /// As `Sequence.query`, `key` and `value`, `stride` floats between tokens that ask, `keyStride` between those that answer; overwritten.
    package var query, key, value: UnsafeMutablePointer<Float>
    package var stride, keyStride: Int
    /// What comes back to sinks, one a head; overwritten. nil where there are none, or nobody needs it.
    package var sinks: UnsafeMutablePointer<Float>?
    /// What comes back to `Sequence.bias`, which lies as that does; added to. nil where nobody needs it.
    package var bias: UnsafeMutablePointer<Float>?

    /// - Parameter keyStride: nil for `stride`
    package init(
      output: UnsafePointer<Float>, outputStride: Int, query: UnsafeMutablePointer<Float>, key: UnsafeMutablePointer<Float>,
      value: UnsafeMutablePointer<Float>, stride: Int, keyStride: Int? = nil, sinks: UnsafeMutablePointer<Float>? = nil
    ) {
      self.sinks = sinks
      (self.output, self.outputStride, self.stride, self.keyStride) = (output, outputStride, stride, keyStride ?? stride)
      (self.query, self.key, self.value) = (query, key, value)
    }
  }

  private enum BackSlot { static let weights = 8, slopes = 9, bounded = 10 }
  private static var block: Int { 64 }

  /// Gradients of all sequences; weights are computed once more.
  ///
  /// With a cap, dS has the slope 1 − tanh² of the scores before it, too. With P = softmax(scale · Q Kᵀ): dV = Pᵀ dO, dP = dO Vᵀ, dS = scale · P∘(dP − Σ_j P∘dP), dQ = dS K, dK = dSᵀ Q.
  /// What was added to scores has dS without the scale for its gradient. A sink has the rest of P, and no value: its gradient is −(1 − Σ_j P) · Σ_j P∘dP, over all queries of its head.
  package func backward(_ pairs: [(sequence: Sequence, gradient: Gradient)], _ team: Team) {
    // Sums over sequences are added in one order.
    if pairs.contains(where: { $0.gradient.bias != nil }) {
      return team.run(keyValueHeads) { head, scratch in
        for pair in pairs { backward(pair.sequence, pair.gradient, head, scratch) }
      }
    }
    team.run(pairs.count * keyValueHeads) { task, scratch in
      let (index, head) = task.quotientAndRemainder(dividingBy: keyValueHeads)
      backward(pairs[index].sequence, pairs[index].gradient, head, scratch)
    }
  }

  private func backward(_ sequence: Sequence, _ gradient: Gradient, _ head: Int, _ scratch: Scratch) {
    let group = heads / keyValueHeads
    let key = sequence.key + head * size, value = sequence.value + head * valueSize
    let dKey = gradient.key + head * size, dValue = gradient.value + head * valueSize
    for token in 0..<sequence.keys {
      (dKey + token * gradient.keyStride).update(repeating: 0, count: size)
      (dValue + token * gradient.keyStride).update(repeating: 0, count: valueSize)
    }
    for member in 0..<group {
      let column = (head * group + member) * size
      gradient.sinks?[head * group + member] = 0
      for first in stride(from: 0, to: sequence.new, by: Self.block) {
        let queries = first..<min(first + Self.block, sequence.new)
        let keys = keyRange(sequence, queries)
        let (m, n) = (queries.count, keys.count)
        let weights = scratch.floatStart(BackSlot.weights, m * n)
        let slopes = scratch.floatStart(BackSlot.slopes, m * n)
        let bounded = cap == nil ? nil : scratch.floatStart(BackSlot.bounded, m * n)
        // Keys that are not seen have no slope, whatever is left of them here.
        bounded?.update(repeating: 0, count: m * n)
        let query = sequence.query + first * sequence.queryStride + column
        let from = keys.lowerBound * sequence.keyStride
        multiply(query, sequence.queryStride, key + from, sequence.keyStride, transposed: true, weights, n, m, n, size)
        for row in queries {
          let own = keyRange(sequence, row..<row + 1)
          weigh(
            weights + (row - first) * n, n, seen: own.lowerBound - keys.lowerBound..<own.upperBound - keys.lowerBound,
            sequence.mask.map { $0 + keys.lowerBound }, sink: sequence.sinks?[head * group + member],
            bias: bias(sequence, head * group + member, row, own.lowerBound), bounded: bounded.map { $0 + (row - first) * n })
        }
        let dOut = gradient.output + first * gradient.outputStride + (head * group + member) * valueSize
        let to = keys.lowerBound * gradient.keyStride
        multiply(
          weights, n, dOut, gradient.outputStride, transposed: false, dValue + to, gradient.keyStride, n, valueSize, m, adds: true,
          transposedLeft: true)
        multiply(
          dOut, gradient.outputStride, value + keys.lowerBound * sequence.valueStride, sequence.valueStride, transposed: true, slopes, n, m, n,
          valueSize)
        for row in 0..<m {
          if let own = gradient.sinks {
            own[head * group + member] += sinkGradient(weights + row * n, slopes + row * n, count: n)
          }
          LayerKernels.softmaxBack(weights + row * n, slopes + row * n, count: n, scale: scale)
          if let own = gradient.bias {
            let seen = keyRange(sequence, first + row..<first + row + 1)
            LayerKernels.add(
              slopes + row * n + seen.lowerBound - keys.lowerBound, scaledBy: 1 / scale, count: seen.count,
              to: own + ((head * group + member) * sequence.biasStride + seen.lowerBound - sequence.past - first - row))
          }
          if let bounded { LayerKernels.tanhBack(slopes + row * n, bounded + row * n, count: n) }
        }
        multiply(
          slopes, n, key + from, sequence.keyStride, transposed: false, gradient.query + first * gradient.stride + column,
          gradient.stride, m, size, n)
        multiply(
          slopes, n, query, sequence.queryStride, transposed: false, dKey + to, gradient.keyStride, n, size, m, adds: true,
          transposedLeft: true)
      }
    }
  }

  /// Of one query.
  private func sinkGradient(_ p: UnsafePointer<Float>, _ dp: UnsafePointer<Float>, count: Int) -> Float {
    var (sum, mean): (Float, Float) = (0, 0)
    for index in 0..<count {
      sum += p[index]
      mean += p[index] * dp[index]
    }
    return (sum - 1) * mean
  }

  /// c[m, n] = a · b, with OpenBLAS or without.
  func multiply(
    _ a: UnsafePointer<Float>, _ aStride: Int, _ b: UnsafePointer<Float>, _ bStride: Int, transposed: Bool,
    _ c: UnsafeMutablePointer<Float>, _ cStride: Int, _ m: Int, _ n: Int, _ k: Int, adds: Bool = false,
    transposedLeft: Bool = false
  ) {
    let isDone = BLAS.multiply(
      a, aStride, b, bStride, transposed: transposed, c, cStride, m: m, n: n, k: k, beta: adds ? 1 : 0,
      transposedLeft: transposedLeft)
    guard !isDone else { return }
    for i in 0..<m {
      for j in 0..<n {
        var sum: Float = adds ? c[i * cStride + j] : 0
        for l in 0..<k {
          sum +=
            (transposedLeft ? a[l * aStride + i] : a[i * aStride + l]) * (transposed ? b[j * bStride + l] : b[l * bStride + j])
        }
        c[i * cStride + j] = sum
      }
    }
  }
}
