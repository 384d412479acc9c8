import NibbleCompute
import NibbleCore

/// A layer norm in a head, over the few rows that heads have.
extension Layers {
  /// out = norm(x), `count` numbers a row. `out` may be x.
  func norm(_ norm: HeadNorm, _ x: UnsafePointer<Float>, count: Int, _ out: Floats) {
    for segment in segments {
      let weight = segment.vector(norm.norm.weight), bias = norm.norm.bias.map { segment.vector($0) }
      for row in segment.rows {
        LayerKernels.layerNorm(x + row * count, weight: weight, bias: bias, count: count, epsilon: norm.epsilon, out + row * count)
      }
    }
  }

  /// From the gradient of its outputs to that of its inputs, in place.
  func normBack(
    _ norm: HeadNorm, _ gradient: Floats, _ x: UnsafePointer<Float>, count: Int, rows: Int, _ gradients: Gradients
  ) {
    guard let segment = segments.first else { return }
    let dw = gradients.vectors[norm.norm.weight.id]?.start, db = norm.norm.bias.flatMap { gradients.vectors[$0.id]?.start }
    for at in stride(from: 0, to: rows * count, by: count) {
      LayerKernels.layerNormBack(
        gradient + at, x + at, weight: segment.vector(norm.norm.weight), count: count, epsilon: norm.epsilon, gradient + at, dw: dw, db: db)
    }
  }
}
