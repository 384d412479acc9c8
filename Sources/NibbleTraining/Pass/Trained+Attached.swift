import NibbleAdapters
import NibbleCompute
import NibbleModels

extension Trained {
  /// What is trained as an adapter, whose numbers are these where they lie: a pass finds them as it finds any adapter's.
  ///
  /// - Parameter merged: weights that hold the change already
  package func attached(to model: Model, merged: MergedWeights? = nil) -> AttachedAdapter {
    let engine = model.engine
    let conv1D = Set(model.linears.filter(\.isConv1D).map(\.id))
    let whole = matrices.map { id, tensor in (id, conv1D.contains(id) ? tensor.matrix.turned : tensor.matrix) }
    return AttachedAdapter(
      name: "trained", methods: modules.compactMapValues { $0.method(engine) },
      tables: tables.compactMapValues { $0.method(engine) }, vectors: vectors.merging(statistics) { own, _ in own }.mapValues(\.values),
      matrices: Dictionary(uniqueKeysWithValues: whole),
      rows: rows.mapValues { TokenRows($0.values.values, $0.values.matrix, tokens: $0.tokens) }, merged: merged)
  }

  /// Where its gradients go.
  package var gradients: Gradients {
    var gradients = Gradients()
    gradients.methods = modules.mapValues(\.gradients)
    gradients.tables = tables.mapValues(\.gradients)
    gradients.rows = rows.mapValues(\.values.gradient)
    gradients.vectors = vectors.mapValues(\.gradient)
    gradients.matrices = matrices.mapValues(\.gradient)
    return gradients
  }
}
