import CNibbleKernels
import NibbleQuant

/// An activation function of a feed-forward layer.
package enum Activation: Sendable, CaseIterable {
  /// x / (1 + exp(−x)).
  case silu
  /// x/2 · (1 + erf(x / √2)).
  case gelu
  /// x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))).
  case geluTanh
  case relu
  case tanh
  /// x / (1 + exp(−1.702 x)).
  case quickGelu
  /// max(x, 0)².
  case relu2
  /// 1 / (1 + exp(−x)).
  case sigmoid
  /// x · tanh(log(1 + exp(x))).
  case mish
  /// gelu, at most 10.
  case gelu10
  /// x.
  case linear
  /// x, or 0.01 x where it is negative.
  case leakyRelu

  fileprivate var native: nibble_activation {
    switch self {
    case .silu: nibble_silu
    case .gelu: nibble_gelu
    case .geluTanh: nibble_gelu_tanh
    case .relu: nibble_relu
    case .tanh: nibble_tanh
    case .quickGelu: nibble_quick_gelu
    case .relu2: nibble_relu2
    case .sigmoid: nibble_sigmoid
    case .mish: nibble_mish
    case .gelu10: nibble_gelu_10
    case .linear: nibble_linear
    case .leakyRelu: nibble_leaky_relu
    }
  }
}

/// What a transformer does between its matrix products, as functions over memory; lengths are the caller's promise. The
/// one file that calls these kernels.
package enum LayerKernels {
  /// out = x / √(mean(x²) + epsilon) · weight. `out` may be `x`.
  package static func rmsNorm(
    _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, count: Int, epsilon: Float, _ out: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_rms_norm(variant.native, x, weight, count, epsilon, out)
  }

  /// out = (x − mean) / √(variance + epsilon) · weight + bias. `out` may be `x`.
  package static func layerNorm(
    _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, bias: UnsafePointer<Float>?, count: Int, epsilon: Float,
    _ out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    nibble_layer_norm(variant.native, x, weight, bias, count, epsilon, out)
  }

  /// out = f(x). `out` may be `x`.
  package static func activate(
    _ f: Activation, _ x: UnsafePointer<Float>, count: Int, _ out: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_activate(variant.native, f.native, x, count, out)
  }

  /// out = f(gate) · up. `out` may be either.
  package static func activate(
    _ f: Activation, gate: UnsafePointer<Float>, times up: UnsafePointer<Float>, count: Int,
    _ out: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    nibble_activate_multiply(variant.native, f.native, gate, up, count, out)
  }

  /// dx = dy∘f′(x). `dx` may be `dy`.
  package static func activateBack(
    _ f: Activation, _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, count: Int, _ dx: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_activate_back(variant.native, f.native, dy, x, count, dx)
  }

  /// Of y = f(gate)∘up: dgate = dy∘up∘f′(gate), dup = dy∘f(gate).
  package static func activateBack(
    _ f: Activation, _ dy: UnsafePointer<Float>, gate: UnsafePointer<Float>, times up: UnsafePointer<Float>, count: Int,
    dgate: UnsafeMutablePointer<Float>, dup: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    nibble_activate_multiply_back(variant.native, f.native, dy, gate, up, count, dgate, dup)
  }

  /// dx of y = x · r · w with r = 1 / √(mean(x²) + epsilon): r · (w∘dy) − x · r³ / n · Σ w∘dy∘x. `dx` may be `dy`.
  ///
  /// - Parameter dw: gets dy∘x · r added, if there
  package static func rmsNormBack(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, count: Int, epsilon: Float,
    _ dx: UnsafeMutablePointer<Float>, dw: UnsafeMutablePointer<Float>? = nil, variant: KernelVariant = .current
  ) {
    nibble_rms_norm_back(variant.native, dy, x, weight, count, epsilon, dx, dw)
  }

  /// dx of y = x̂∘w + b with x̂ = (x − mean) · r: r · (g − mean(g) − x̂ · mean(g∘x̂)), g = w∘dy. `dx` may be `dy`.
  ///
  /// - Parameters:
  ///   - dw: gets dy∘x̂ added, if there
  ///   - db: gets dy added, if there
  package static func layerNormBack(
    _ dy: UnsafePointer<Float>, _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, count: Int, epsilon: Float,
    _ dx: UnsafeMutablePointer<Float>, dw: UnsafeMutablePointer<Float>? = nil, db: UnsafeMutablePointer<Float>? = nil,
    variant: KernelVariant = .current
  ) {
    nibble_layer_norm_back(variant.native, dy, x, weight, count, epsilon, dx, dw, db)
  }

  /// Of p = softmax(scale · x): d, the gradient of p, becomes that of x: scale · p∘(d − Σ p∘d).
  package static func softmaxBack(
    _ p: UnsafePointer<Float>, _ d: UnsafeMutablePointer<Float>, count: Int, scale: Float, variant: KernelVariant = .current
  ) {
    nibble_softmax_back(variant.native, p, d, count, scale)
  }

  /// y += a · x.
  package static func add(
    _ x: UnsafePointer<Float>, scaledBy a: Float = 1, count: Int, to y: UnsafeMutablePointer<Float>,
    variant: KernelVariant = .current
  ) {
    nibble_add_scaled(variant.native, a, x, count, y)
  }

  /// y *= x.
  package static func multiply(
    _ y: UnsafeMutablePointer<Float>, by x: UnsafePointer<Float>, count: Int, variant: KernelVariant = .current
  ) {
    nibble_multiply_by(variant.native, x, count, y)
  }

  /// x = exp(scale · x) / Σ exp(scale · x); −∞ becomes 0, nothing but −∞ zeros.
  package static func softmax(
    _ x: UnsafeMutablePointer<Float>, count: Int, scale: Float = 1, variant: KernelVariant = .current
  ) {
    nibble_softmax(variant.native, x, count, scale)
  }

  /// log Σ exp(x).
  package static func logSumExp(_ x: UnsafePointer<Float>, count: Int, variant: KernelVariant = .current) -> Double {
    nibble_log_sum_exp(variant.native, x, count)
  }

  /// Turns the pairs (x[i], x[i + half]) by angles given as cosines and sines.
  package static func rotate(
    _ x: UnsafeMutablePointer<Float>, cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>, half: Int,
    variant: KernelVariant = .current
  ) {
    nibble_rotate(variant.native, x, cosines, sines, half)
  }

  /// Turns the pairs (x[2i], x[2i + 1]), `count` of them.
  package static func rotatePairs(
    _ x: UnsafeMutablePointer<Float>, cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>, count: Int
  ) {
    nibble_rotate_pairs(x, cosines, sines, count)
  }

  /// x *= a.
  package static func scale(_ x: UnsafeMutablePointer<Float>, by a: Float, count: Int) { nibble_scale(a, x, count) }

  /// d, the gradient of t = tanh(x), becomes that of x: d · (1 − t²).
  package static func tanhBack(_ d: UnsafeMutablePointer<Float>, _ t: UnsafePointer<Float>, count: Int) {
    nibble_tanh_back(t, d, count)
  }

  /// The greatest number and the least index that has it; the first NaN if there is one.
  package static func argmax(
    _ x: UnsafePointer<Float>, count: Int, variant: KernelVariant = .current
  ) -> (index: Int, value: Float) {
    var value: Float = 0
    let index = nibble_argmax(variant.native, x, count, &value)
    return (index, value)
  }

  /// Whether no number is NaN or infinite.
  package static func allFinite(_ x: UnsafePointer<Float>, count: Int, variant: KernelVariant = .current) -> Bool {
    nibble_all_finite(variant.native, x, count) != 0
  }

  /// Attention of `queries` vectors of `width` floats that share a head's `count` keys and values, whose rows begin
  /// `keyStride` floats apart. `scratch` holds queries · (count + 1) floats. Keys with 0 in `mask` are not seen. Scores, scaled, become
  /// cap · tanh(score / cap) if there is a cap.
  ///
  /// - Parameters:
  ///   - valueStride: nil for that of keys
  ///   - valueWidth: nil for that of keys
  ///   - bias: what is added to the scores of a query, those of the next `biasStride` floats on; nil for nothing
  ///   - sinks: of each query a score that takes its share and gives nothing; nil for none
  package static func attend(
    _ q: UnsafePointer<Float>, queries: Int, queryStride: Int, keys k: UnsafePointer<Float>, values v: UnsafePointer<Float>,
    count: Int, keyStride: Int, valueStride: Int? = nil, width: Int, valueWidth: Int? = nil, scale: Float, cap: Float? = nil,
    bias: UnsafePointer<Float>? = nil, biasStride: Int = 0, mask: UnsafePointer<UInt8>? = nil, sinks: UnsafePointer<Float>? = nil,
    _ out: UnsafeMutablePointer<Float>, outStride: Int, scratch: UnsafeMutablePointer<Float>, variant: KernelVariant = .current
  ) {
    var answers = nibble_answers(
      k: k, v: v, t: count, k_stride: keyStride, v_stride: valueStride ?? keyStride, k_width: width, v_width: valueWidth ?? width,
      scale: scale, cap: cap ?? 0, bias: bias, bias_stride: biasStride, mask: mask, sinks: sinks)
    nibble_attend(variant.native, q, queries, queryStride, &answers, out, outStride, scratch)
  }
}
