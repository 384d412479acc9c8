import NibbleCompute
import NibbleCore
import NibbleModels

/// Numbers that are trained, and what the loss says of them.
package final class TrainedTensor {
  /// As adapter files call it.
  package let name: String
  package let shape: [Int]
  package let values: FloatStore
  package let gradient: FloatStore
  /// Whether this is a second factor, which LoRA+ trains at a rate of its own.
  package var isSecondFactor = false

  package init(_ name: String, _ shape: [Int], _ values: FloatStore) {
    (self.name, self.shape, self.values) = (name, shape, values)
    gradient = FloatStore(count: values.count)
    gradient.values.update(repeating: 0)
  }

  /// The numbers as a matrix, where they lie; for shapes of two dimensions.
  package var matrix: Matrix {
    guard
      let matrix = Matrix(
        .f32, rows: shape[0], columns: shape[1], UnsafeRawBufferPointer(values.values), owner: values)
    else { return Matrix([], rows: 0, columns: 0) }
    return matrix
  }
}

/// The two factors of one layer, trained, and DoRA's magnitudes.
package struct TrainedFactors {
  /// [rank, inputs]
  package let a: TrainedTensor
  /// [outputs, rank]
  package let b: TrainedTensor
  package let scale: Float
  /// [outputs]
  package var magnitude: TrainedTensor?

  package init(a: TrainedTensor, b: TrainedTensor, scale: Float, magnitude: TrainedTensor? = nil) {
    (self.a, self.b, self.scale, self.magnitude) = (a, b, scale, magnitude)
  }

  package var rank: Int { a.shape[0] }
}

/// All that is trained on one model, by the parameter it belongs to.
package struct Trained {
  package var factors: [ParameterID: TrainedFactors] = [:]
  /// Biases and norms.
  package var vectors: [ParameterID: TrainedTensor] = [:]
  /// Weights trained whole.
  package var matrices: [ParameterID: TrainedTensor] = [:]

  package init() {}

  /// In the order of their names: sums over all of them are always the same.
  package var tensors: [TrainedTensor] {
    let all = factors.values.flatMap { [$0.a, $0.b] + ($0.magnitude.map { [$0] } ?? []) } + vectors.values + matrices.values
    // A shared weight is one.
    var seen: Set<ObjectIdentifier> = []
    return all.filter { seen.insert(ObjectIdentifier($0)).inserted }.sorted { ByteName($0.name) < ByteName($1.name) }
  }

  /// Whether all there is are factors whose product is zero.
  package var isDead: Bool {
    vectors.isEmpty && matrices.isEmpty && !factors.isEmpty
      && factors.values.allSatisfy { $0.scale == 0 || $0.b.values.values.allSatisfy { $0 == 0 } }
      && factors.values.allSatisfy { $0.magnitude == nil }
  }

  package func isTrained(_ layer: Linear) -> Bool {
    factors[layer.id] != nil || matrices[layer.id] != nil || layer.bias.map { vectors[$0.id] != nil } ?? false
  }
}
