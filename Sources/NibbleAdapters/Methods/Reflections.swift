import NibbleCompute
import NibbleCore

/// x′ = x · Hᵀ with H a product of reflections, H = (I − 2 u₀ u₀ᵀ) · (I − 2 u₁ u₁ᵀ) · …, uₖ of length 1.
package struct Reflections: InputChange {
  /// [count, inputs]
  let vectors: FloatStore
  private let count: Int
  private let inputs: Int
  /// Takes the gradient of the vectors to what they are made of.
  private let back: @Sendable (_ vectors: FloatStore, PartGradients) -> Void

  package init(
    inputs: Int, count: Int, back: @escaping @Sendable (_ vectors: FloatStore, PartGradients) -> Void
  ) {
    (self.inputs, self.count, self.back) = (inputs, count, back)
    vectors = FloatStore(count: count * inputs)
  }

  package var grain: Int { inputs }

  private func dot(_ k: Int, _ x: UnsafePointer<Float>) -> Float {
    let u = vectors.start + k * inputs
    var sum = 0.0
    for i in 0..<inputs { sum += Double(u[i] * x[i]) }
    return Float(sum)
  }

  private func reflect(_ k: Int, _ x: UnsafeMutablePointer<Float>) {
    LayerKernels.add(vectors.start + k * inputs, scaledBy: -2 * dot(k, x), count: inputs, to: x)
  }

  package func apply(_ x: UnsafePointer<Float>, to out: UnsafeMutablePointer<Float>) {
    out.update(from: x, count: inputs)
    for k in (0..<count).reversed() { reflect(k, out) }
  }

  package func turnBack(_ v: UnsafePointer<Float>, _: Range<Int>, to out: UnsafeMutablePointer<Float>) {
    out.update(from: v, count: inputs)
    for k in 0..<count { reflect(k, out) }
  }

  /// Goes the way of x′ back, one reflection after another: each is its own inverse, so that no step of it has to be kept.
  /// du = −2 Σ over rows of (x·u) dy + (dy·u) x, with x before the reflection and dy behind it.
  package func addGradients(
    _ x: UnsafePointer<Float>, _ dx: UnsafePointer<Float>, rows: Int, inputs: Int, _ gradients: PartGradients, _ engine: Engine
  ) {
    let own = FloatStore([Float](repeating: 0, count: count * inputs))
    let (now, dy) = (FloatStore(count: inputs), FloatStore(count: inputs))
    for row in 0..<rows {
      apply(x + row * inputs, to: now.start)
      dy.start.update(from: dx + row * inputs, count: inputs)
      for k in 0..<count {
        reflect(k, now.start)
        let (along, gradient) = (dot(k, now.start), dot(k, dy.start))
        LayerKernels.add(dy.start, scaledBy: -2 * along, count: inputs, to: own.start + k * inputs)
        LayerKernels.add(now.start, scaledBy: -2 * gradient, count: inputs, to: own.start + k * inputs)
        LayerKernels.add(vectors.start + k * inputs, scaledBy: -2 * gradient, count: inputs, to: dy.start)
      }
    }
    back(own, gradients)
  }
}
