import NibbleCompute
import NibbleCore
import NibbleQuant

/// The place of a named tensor in its model, by which adapters find it.
package typealias ParameterID = Int

/// A vector of a model: a bias, the weight of a norm.
package struct Vector: Sendable {
  package let id: ParameterID
  package let values: FloatStore
}

/// A linear layer: y = x · Wᵀ + b. A convolution is one, whose x is a window of its input: channels, then rows and columns of each.
package struct Linear: Sendable {
  /// The module's path, without `.weight`.
  package let name: String
  package let id: ParameterID
  package let matrix: Matrix
  package let bias: Vector?
  /// Whether the module stores its weight [inputs, outputs].
  package let isConv1D: Bool
  /// [channels, height, width] of a convolution's window; nil for other layers.
  package var window: [Int]?

  /// Of the weight, as its module stores it.
  package var shape: [Int] {
    if let window { return [outputs] + window }
    return isConv1D ? [inputs, outputs] : [outputs, inputs]
  }
  package var inputs: Int { matrix.inputs }
  package var outputs: Int { matrix.outputs }

  /// The same layer with another bias, or none.
  func with(bias: Vector?) -> Linear {
    Linear(name: name, id: id, matrix: matrix, bias: bias, isConv1D: isConv1D, window: window)
  }
}

/// Rows looked up by number.
package struct Embedding: Sendable {
  package let name: String
  package let id: ParameterID
  /// [count, width]
  package let matrix: Matrix

  package var count: Int { matrix.native.rows }
  package var width: Int { matrix.native.columns }
}

/// The weights of a norm; a bias only in layer norms.
package struct Norm: Sendable {
  package let weight: Vector
  package let bias: Vector?
}
