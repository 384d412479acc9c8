import Glibc

/// Derivatives of what a transformer does between its matrix products.
package enum BackwardKernels {
  /// dx of y = x · r · w with r = 1 / √(mean(x²) + epsilon): r · (w∘dy) − x · r³ / n · Σ w∘dy∘x.
  ///
  /// - Parameter dw: gets dy∘x · r added, if there
  package static func rmsNorm(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, weight w: UnsafePointer<Float>, count: Int, epsilon: Float,
    _ dx: UnsafeMutablePointer<Float>, dw: UnsafeMutablePointer<Float>? = nil
  ) {
    var squares = 0.0, dot = 0.0
    for i in 0..<count {
      squares += Double(x[i] * x[i])
      dot += Double(dy[i] * w[i] * x[i])
    }
    let r = 1 / (squares / Double(count) + Double(epsilon)).squareRoot()
    let (scale, pull) = (Float(r), Float(r * r * r * dot / Double(count)))
    if let dw { for i in 0..<count { dw[i] += dy[i] * x[i] * scale } }
    for i in 0..<count { dx[i] = scale * w[i] * dy[i] - pull * x[i] }
  }

  /// dx of y = x̂∘w + b with x̂ = (x − mean) · r: r · (g − mean(g) − x̂ · mean(g∘x̂)), g = w∘dy.
  package static func layerNorm(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, weight w: UnsafePointer<Float>, count: Int, epsilon: Float,
    _ dx: UnsafeMutablePointer<Float>, dw: UnsafeMutablePointer<Float>? = nil, db: UnsafeMutablePointer<Float>? = nil
  ) {
    let n = Double(count)
    var sum = 0.0
    for i in 0..<count { sum += Double(x[i]) }
    let mean = sum / n
    var squares = 0.0
    for i in 0..<count { squares += (Double(x[i]) - mean) * (Double(x[i]) - mean) }
    let r = 1 / (squares / n + Double(epsilon)).squareRoot()
    var g = 0.0, gx = 0.0
    for i in 0..<count {
      let own = Double(dy[i] * w[i])
      g += own
      gx += own * (Double(x[i]) - mean) * r
    }
    for i in 0..<count {
      let hat = Float((Double(x[i]) - mean) * r)
      let d = dy[i]
      if let dw { dw[i] += d * hat }
      if let db { db[i] += d }
      dx[i] = Float(r) * (d * w[i] - Float(g / n) - hat * Float(gx / n))
    }
  }

  /// f′(x).
  private static func slope(_ f: Activation, _ x: Float) -> Float {
    switch f {
    case .silu:
      let s = 1 / (1 + expf(-x))
      return s * (1 + x * (1 - s))
    case .gelu: return 0.5 * (1 + erff(x * 0.70710678)) + x * 0.39894228 * expf(-0.5 * x * x)
    case .geluTanh:
      let u = 0.79788456 * (x + 0.044715 * x * x * x)
      let t = tanhf(u)
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * 0.79788456 * (1 + 3 * 0.044715 * x * x)
    case .relu: return x > 0 ? 1 : 0
    case .tanh:
      let t = tanhf(x)
      return 1 - t * t
    case .quickGelu:
      let s = 1 / (1 + expf(-1.702 * x))
      return s * (1 + 1.702 * x * (1 - s))
    }
  }

  /// dx = dy∘f′(x). `dx` may be `dy`.
  package static func activate(
    _ f: Activation, _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, count: Int, _ dx: UnsafeMutablePointer<Float>
  ) {
    for i in 0..<count { dx[i] = dy[i] * slope(f, x[i]) }
  }

  /// Of y = f(gate)∘up: dgate = dy∘up∘f′(gate), dup = dy∘f(gate).
  ///
  /// - Parameter value: f(gate), or room for it
  package static func activate(
    _ f: Activation, _ dy: UnsafePointer<Float>, gate: UnsafePointer<Float>, up: UnsafePointer<Float>, count: Int,
    dgate: UnsafeMutablePointer<Float>, dup: UnsafeMutablePointer<Float>, value: UnsafeMutablePointer<Float>
  ) {
    LayerKernels.activate(f, gate, count: count, value)
    for i in 0..<count {
      dup[i] = dy[i] * value[i]
      dgate[i] = dy[i] * up[i] * slope(f, gate[i])
    }
  }

  /// Scores become the gradient of −log softmax(scores)[target], times `scale`.
  ///
  /// - Returns: the loss
  package static func crossEntropy(_ scores: UnsafeMutablePointer<Float>, count: Int, target: Int, scale: Float) -> Double {
    let loss = LayerKernels.logSumExp(scores, count: count) - Double(scores[target])
    LayerKernels.softmax(scores, count: count)
    scores[target] -= 1
    for i in 0..<count { scores[i] *= scale }
    return loss
  }
}
