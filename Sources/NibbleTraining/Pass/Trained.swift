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
  /// Its own peak rate; nil for the run's.
  package var peakRate: Double?
  package var decays = true
  /// Whether it stays as it is, and has no gradient.
  package let isFrozen: Bool
  /// Whether adapter files hold it; what they do not is drawn again.
  package var isStored = true

  package init(_ name: String, _ shape: [Int], _ values: FloatStore, isFrozen: Bool = false) {
    (self.name, self.shape, self.values, self.isFrozen) = (name, shape, values, isFrozen)
    gradient = FloatStore(count: isFrozen ? 0 : values.count)
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

/// What is trained of one layer or table beside its weight: an adapter's module.
package struct TrainedModule {
  package let method: any AdapterMethod.Type
  /// By the names the method has for its parts.
  package let parts: [String: TrainedTensor]
  /// What the product of the factors is multiplied with.
  package let scale: Double
  package let shape: ModuleShape
  /// The last ranks of its factors that stay as they began.
  package let kept: Int
  /// Whether its parts are a pair that is added, and nothing else.
  package var isBarePair: Bool { method.isSum && !method.folds && Set(parts.keys) == [LoRA.first, LoRA.second] }

  /// - Parameters:
  ///   - shared: what all modules share, by part
  ///   - frozen: parts that stay as they are
  ///   - kept: the last ranks of its factors that do
  ///   - name: of a part's tensor in adapter files
  init(
    _ method: any AdapterMethod.Type, _ module: ModuleShape, scale: Double, _ values: [String: [Float]],
    shared: [String: TrainedTensor] = [:], frozen: Set<String> = [], kept: Int = 0, name: (MethodPart) -> String
  ) {
    (self.method, self.scale, shape, self.kept) = (method, scale, module, kept)
    parts = method.parts.reduce(into: shared) { parts, part in
      guard part.sharing == nil, let own = values[part.name] else { return }
      let tensor = TrainedTensor(name(part), part.shape(module), FloatStore(own), isFrozen: part.isKept || frozen.contains(part.name))
      tensor.isStored = !part.isKept
      tensor.isSecondFactor = part.isSecond && module.kind != .embedding
      parts[part.name] = tensor
    }
  }

  /// Of its factors as configured; 0 without.
  package var rank: Int { shape.rank }
  /// In the order of the method's parts, those that stay as they are among them.
  package var tensors: [TrainedTensor] { method.parts.compactMap { parts[$0.name] } }

  fileprivate var ruled: RuledModule {
    RuledModule(
      parts: parts.mapValues { .init(name: $0.name, shape: $0.shape, values: $0.values, gradient: $0.gradient) },
      settings: shape.settings)
  }

  /// The method they are numbers of, where they lie.
  func method(_ engine: Engine) -> (any AdapterMethod)? {
    let matrices = parts.filter { $0.value.shape.count > 1 }.mapValues(\.matrix)
    return method.init(
      MethodNumbers(matrices: matrices, values: parts.mapValues(\.values), scale: scale, shape: shape, engine))
  }

  var gradients: PartGradients { parts.filter { !$0.value.isFrozen }.mapValues(\.gradient) }
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
  package var modules: [ParameterID: TrainedModule] = [:]
  /// What adapts the embedding of tokens.
  package var tables: [ParameterID: TrainedModule] = [:]
  /// Rows of tables, and of a head that shares its weight with one.
  package var rows: [ParameterID: TrainedRows] = [:]
  /// Biases and norms.
  package var vectors: [ParameterID: TrainedTensor] = [:]
  /// Weights trained whole.
  package var matrices: [ParameterID: TrainedTensor] = [:]
  /// Running means and variances, which passes move: they have no gradients, and no optimizer sees them.
  package var statistics: [ParameterID: TrainedTensor] = [:]

  package init() {}

  /// In the order of their names: sums over all of them are always the same.
  package var tensors: [TrainedTensor] { stored.filter { !$0.isFrozen } }

  /// The same with what adapters hold and training leaves as it is.
  package var stored: [TrainedTensor] {
    let adapted = Array(modules.values) + Array(tables.values)
    let all = adapted.flatMap(\.tensors) + rows.values.map(\.values) + vectors.values + matrices.values
    // A shared weight is one.
    var seen: Set<ObjectIdentifier> = []
    return all.filter { seen.insert(ObjectIdentifier($0)).inserted }.sorted { ByteName($0.name) < ByteName($1.name) }
  }

  /// What the method of the modules does beside gradients.
  func rule(steps: Int) throws -> (any TrainingRule)? {
    let all = modules.sorted { $0.key < $1.key }.map(\.value)
    if all.contains(where: { $0.kept > 0 }) { return KeptRanks(all) }
    return try all.first?.method.rule(all.map(\.ruled), steps: steps)
  }

  /// Whether all there is are modules that change nothing.
  package func isDead(_ engine: Engine) -> Bool {
    let adapted = Array(modules.values) + Array(tables.values)
    return vectors.isEmpty && matrices.isEmpty && rows.isEmpty && !adapted.isEmpty
      && adapted.allSatisfy { $0.method(engine)?.isDead ?? false }
  }

  /// Whether any row of a table is trained, whole or by factors.
  package func isTrained(_ table: Embedding) -> Bool {
    matrices[table.id] != nil || rows[table.id] != nil || tables[table.id] != nil
  }
}
