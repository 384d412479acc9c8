import NibbleCompute
import NibbleCore

/// What an adapter adds to one layer of a running model:
/// y = outputScale · (x · Wᵀ + scale · x · Aᵀ · Bᵀ) + bias.
///
/// LoRA and what folds exactly into it (rsLoRA, IEC, QA-LoRA, Q-BaRA) are the factors; DoRA adds the output scale.
package struct ForwardTerm: Sendable {
  /// [rank, inputs]
  package var a: Matrix
  /// [outputs, rank]
  package var b: Matrix
  package var scale: Float
  /// One factor an output; nil for 1.
  package var outputScale: FloatStore?
  /// One number an output; the layer's own bias stays.
  package var bias: FloatStore?

  package init(a: Matrix, b: Matrix, scale: Float, outputScale: FloatStore? = nil, bias: FloatStore? = nil) {
    self.a = a
    self.b = b
    self.scale = scale
    self.outputScale = outputScale
    self.bias = bias
  }

  /// The factors for some rows of an engine's left-hand side.
  package func lowRank(weight: Float, rows: Range<Int>) -> Engine.LowRankTerm {
    Engine.LowRankTerm(a: a, b: b, scale: scale * weight, rows: rows)
  }
}

/// What an adapter adds to rows of an embedding: outputScale · (row + scale · a[id] · Bᵀ).
package struct EmbeddingTerm: Sendable {
  /// [count, rank]
  package var a: Matrix
  /// [width, rank]
  package var b: Matrix
  package var scale: Float
  /// One factor a number of the row; nil for 1.
  package var outputScale: FloatStore?

  package init(a: Matrix, b: Matrix, scale: Float, outputScale: FloatStore? = nil) {
    self.a = a
    self.b = b
    self.scale = scale
    self.outputScale = outputScale
  }
}
