import NibbleCompute

/// What an adapter makes of one linear layer: forward and backward. With z = x · Wᵀ + pair(x):
///
///     y = s ∘ z + b + t
///
/// b is the layer's own bias. A pass computes z, with the pair's part in the layer's own product, and y. A method says what its
/// pair, s and t are, and takes the gradient of y to that of z. Its numbers lie in memory that training may change between passes.
package protocol LinearMethod: Sendable {
  /// nil for numbers that are another method's.
  init?(_ numbers: MethodNumbers)
  /// Added to the layer's product; nil for nothing.
  var pair: LowRankPair? { get }
  /// Whether s may be other than 1. Such an adapter has no fraction, and goes with no other.
  var scalesOutputs: Bool { get }
  /// s and t, as the method's numbers are now.
  ///
  /// - Parameters:
  ///   - weight: W, in place
  ///   - engine: of float32
  func outputs(of weight: Matrix, _ engine: Engine) -> OutputChange
  /// Turns dy into the gradient of z, and adds to the gradients of what s and t are made of. The pair has its own way back.
  func backward(_ outputs: OutputGradient, _ gradients: PartGradients)
}

/// What follows a layer's product, a number an output.
package struct OutputChange {
  /// nil for 1.
  package var scale: FloatStore?
  /// nil for 0.
  package var bias: FloatStore?
  /// What else the way back needs.
  package var kept: [Float]

  package init(scale: FloatStore? = nil, bias: FloatStore? = nil, kept: [Float] = []) {
    (self.scale, self.bias, self.kept) = (scale, bias, kept)
  }
}

/// Where the gradients of a method's numbers go, by the names that adapter files have for them. What has none is frozen.
package typealias PartGradients = [String: FloatStore]

/// The gradient of one layer's outputs.
package struct OutputGradient {
  /// [rows, count], rows `stride` floats apart.
  package let dy: UnsafeMutablePointer<Float>
  package let stride: Int
  package let rows: Int
  package let count: Int
  /// z, [rows, count]; nil where nothing scaled it.
  package let z: UnsafePointer<Float>?
  /// What the method said on the way forth.
  package let change: OutputChange
  package let engine: Engine

  package init(
    _ dy: UnsafeMutablePointer<Float>, stride: Int, rows: Int, count: Int, z: UnsafePointer<Float>?, _ change: OutputChange,
    _ engine: Engine
  ) {
    (self.dy, self.stride, self.rows, self.count, self.z, self.change) = (dy, stride, rows, count, z, change)
    self.engine = engine
  }

  /// Σ over rows of dy∘z for one output.
  package func productSum(_ output: Int) -> Double {
    guard let z else { return 0 }
    return (0..<rows).reduce(0.0) { $0 + Double(dy[$1 * stride + output] * z[$1 * count + output]) }
  }

  /// dy = s∘dy.
  package func scale() {
    guard let scale = change.scale else { return }
    for row in 0..<rows { LayerKernels.multiply(dy + row * stride, by: scale.start, count: count) }
  }
}
