import NibbleCompute
import NibbleCore

/// Hands out the weights of one layer of a decoder, by their names in the layer.
struct DecoderLayer {
  /// What comes before these names.
  let prefix: String
  let shape: TransformerShape
  let source: WeightSource

  init(_ prefix: String, _ shape: TransformerShape, _ source: WeightSource) {
    (self.prefix, self.shape, self.source) = (prefix, shape, source)
  }

  func vector(_ name: String, _ count: Int) throws -> Vector { try source.vector(prefix + name, count: count) }

  /// - Throws: for one that holds infinities or NaN, too
  func finiteVector(_ name: String, _ count: Int) throws -> Vector {
    let vector = try vector(name, count)
    guard vector.values.values.allSatisfy(\.isFinite) else {
      throw NibbleError.badInput("\(path: source.mapped.checkpoint.path): \(tensor: prefix + name) has NaN or infinite values")
    }
    return vector
  }

  func norm(_ name: String, _ count: Int, hasBias: Bool = false) throws -> Norm {
    try source.norm(prefix + name, width: count, hasBias: hasBias)
  }

  /// - Parameter isTurned: whether the weight is stored [inputs, outputs]
  func linear(_ name: String, _ outputs: Int, _ inputs: Int, hasBias: Bool = false, isTurned: Bool = false) throws -> Linear {
    try source.linear(prefix + name, outputs: outputs, inputs: inputs, bias: hasBias ? .required : .none, isConv1D: isTurned)
  }

  /// An MLP, or an expert, of `inner` numbers between its projections.
  func mlp(_ up: [String], _ down: String, _ inner: Int, hasBias: Bool = false, isTurned: Bool = false) throws -> Expert {
    let upWidth = up.count == 1 && shape.isGated ? 2 * inner : inner
    return Expert(
      up: try up.map { try linear($0, upWidth, shape.width, hasBias: hasBias, isTurned: isTurned) },
      down: try linear(down, shape.width, inner, hasBias: hasBias, isTurned: isTurned))
  }
}
