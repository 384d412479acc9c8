import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

/// A trained tensor and its gradient.
package final class TrainedTensor {
  /// As adapter files call it.
  package let name: String
  /// Those it has there beside that one: a weight that two modules share is stored once for each.
  package var otherNames: [String] = []
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

  /// The numbers as a matrix, where they lie; for shapes of two dimensions or more, all behind the first as one.
  package var matrix: Matrix {
    guard
      let matrix = Matrix(
        .f32, rows: shape[0], columns: values.count / max(shape[0], 1), UnsafeRawBufferPointer(values.values), owner: values)
    else { return Matrix([], rows: 0, columns: 0) }
    return matrix
  }
}

/// The two factors of one layer or table, trained, and what comes with them.
package struct TrainedFactors {
  /// [rank, inputs]; of a table [rank, count]
  package let a: TrainedTensor
  /// [outputs, rank]
  package let b: TrainedTensor
  package let scale: Float
  /// What else the method has, by the names that adapter files have for it.
  package var parts: [String: TrainedTensor] = [:]

  package init(a: TrainedTensor, b: TrainedTensor, scale: Float) { (self.a, self.b, self.scale) = (a, b, scale) }

  package var rank: Int { a.shape[0] }
  package var tensors: [TrainedTensor] { [a, b] + parts.values }
  /// DoRA's, [outputs].
  package var magnitude: TrainedTensor? { parts[DoRA.magnitude] }

  private var pair: LowRankPair { LowRankPair(a: a.matrix, b: b.matrix, scale: scale) }

  /// The method they are numbers of, where they lie.
  func method(_ engine: Engine) -> (any LinearMethod)? {
    AdapterMethods.method(MethodNumbers(pair, parts: parts.mapValues(\.values), engine))
  }

  var embeddingTerm: EmbeddingTerm { EmbeddingTerm(a: a.values, b: b.matrix, scale: scale) }

  var gradients: PartGradients {
    parts.mapValues(\.gradient).merging([LoRA.first: a.gradient, LoRA.second: b.gradient]) { first, _ in first }
  }

  /// Whether what there is adds nothing to a layer.
  package var isDead: Bool {
    let isZero: (TrainedTensor) -> Bool = { $0.values.values.allSatisfy { $0 == 0 } }
    return magnitude == nil && (scale == 0 || isZero(b) && parts.values.allSatisfy(isZero))
  }
}

/// Rows of some tokens that take the place of a table's own.
package struct TrainedRows {
  /// [tokens, width]
  package let values: TrainedTensor
  /// The tokens in the order of their rows.
  package let tokens: [Int]

  package init(_ values: TrainedTensor, tokens: [Int]) { (self.values, self.tokens) = (values, tokens) }
}

/// All that is trained on one model, by the parameter it belongs to.
package struct Trained {
  package var factors: [ParameterID: TrainedFactors] = [:]
  /// Factors of the embedding of tokens.
  package var tableFactors: [ParameterID: TrainedFactors] = [:]
  /// Rows of tables, and of a head that shares its weight with one.
  package var rows: [ParameterID: TrainedRows] = [:]
  /// Biases and norms.
  package var vectors: [ParameterID: TrainedTensor] = [:]
  /// Weights trained whole.
  package var matrices: [ParameterID: TrainedTensor] = [:]

  package init() {}

  /// In the order of their names: sums over all of them are always the same.
  package var tensors: [TrainedTensor] {
    let adapted = Array(factors.values) + Array(tableFactors.values)
    let all = adapted.flatMap(\.tensors) + rows.values.map(\.values) + vectors.values + matrices.values
    // A shared weight is one.
    var seen: Set<ObjectIdentifier> = []
    return all.filter { seen.insert(ObjectIdentifier($0)).inserted }.sorted { ByteName($0.name) < ByteName($1.name) }
  }

  /// Whether all there is are factors whose product is zero.
  package var isDead: Bool {
    vectors.isEmpty && matrices.isEmpty && rows.isEmpty && !(factors.isEmpty && tableFactors.isEmpty)
      && factors.values.allSatisfy(\.isDead) && tableFactors.values.allSatisfy(\.isDead)
  }

  /// Whether any row of a table is trained, whole or by factors.
  package func isTrained(_ table: Embedding) -> Bool {
    matrices[table.id] != nil || rows[table.id] != nil || tableFactors[table.id] != nil
  }
}
