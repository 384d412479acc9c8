import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleModels

extension Trained {
  /// Modules trained whole: those asked for, by the last parts of their paths, and the head of a classifier or of one that marks answers, unless it has factors.
  ///
  /// An embedding that a head shares its weight with is trained without the head, as in PEFT: the head keeps its weight.
  ///
  /// - Throws: `.usage` for names of no module
  mutating func addWholeModules(_ names: [String], _ model: Model) throws {
    if model.head.isOfTask { for layer in model.head.layers where modules[layer.id] == nil { add(layer, model) } }
    let norms = model.norms.map { (String(model.parameterNames[$0.weight.id].dropLast(".weight".count)), $0) }
    for name in names {
      let layers = model.linears.filter { ModuleChoice.is($0.name, name) }
      let tables = model.embeddings.filter { ModuleChoice.is($0.name, name) }
      let others = norms.filter { ModuleChoice.is($0.0, name) }
      guard !layers.isEmpty || !tables.isEmpty || !others.isEmpty else {
        throw NibbleError.usage("\(.modulesToSave, quoted(name)) is no linear layer, embedding or norm of \(path: model.path)")
      }
      for layer in layers where matrices[layer.id] == nil { add(layer, model) }
      for table in tables {
        add(table.matrix, table.id, [table.count, table.width], "\(model.path(ofModule: table.name)).weight")
      }
      for (path, norm) in others {
        let path = model.path(ofModule: path)
        add(norm.weight, path + ".weight")
        if let bias = norm.bias { add(bias, path + ".bias") }
      }
    }
  }

  /// Lets a head that multiplies with the embedding's own weight follow it.
  mutating func shareScorer(_ model: Model) {
    if let (head, tokens) = model.embeddingScorer { matrices[head.id] = matrices[tokens.id] }
  }

  /// Makes one trained weight of those of an embedding and a head that share theirs, stored under both names.
  mutating func shareTied(_ model: Model) {
    guard let (head, tokens) = model.tied, let one = matrices[tokens.id], matrices[head.id] !== one else { return }
    one.otherNames.append("base_model.model.\(model.path(ofModule: head.name)).weight")
    matrices[head.id] = one
  }

  /// The bias of a layer, where it has one.
  mutating func addBias(of layer: Linear, _ model: Model) {
    guard let bias = layer.bias else { return }
    add(bias, "\(model.path(ofModule: layer.name)).\(modules[layer.id] == nil ? "bias" : "base_layer.bias")")
  }

  /// The bias of a head for masked tokens under all of its names, a layer's or none.
  mutating func addHeadBias(_ model: Model) {
    guard case .masked(let head) = model.head, let bias = head.output.bias else { return }
    if !head.isModule { add(bias, model.path(ofModule: model.parameterNames[bias.id])) }
    if let other = head.otherBias {
      // As PEFT, whose layer and head hold the one parameter.
      vectors[bias.id]?.otherNames.append("base_model.model." + model.path(ofModule: model.parameterNames[other]))
    }
  }

  private mutating func add(_ layer: Linear, _ model: Model) {
    add(layer.matrix, layer.id, layer.shape, "\(model.path(ofModule: layer.name)).weight")
    addBias(of: layer, model)
  }

  private mutating func add(_ matrix: Matrix, _ id: ParameterID, _ shape: [Int], _ name: String) {
    guard matrices[id] == nil else { return }
    let values = FloatStore(count: matrix.native.rows * matrix.native.columns)
    matrix.rows(0..<matrix.native.rows, into: values.start)
    matrices[id] = TrainedTensor("base_model.model." + name, shape, values)
  }

  private mutating func add(_ vector: Vector, _ name: String) {
    guard vectors[vector.id] == nil else { return }
    let values = FloatStore(Array(vector.values.values))
    vectors[vector.id] = TrainedTensor("base_model.model." + name, [values.count], values)
  }
}
