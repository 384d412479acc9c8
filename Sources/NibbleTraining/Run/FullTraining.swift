import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

extension Trained {
  /// Every weight of a float base: matrices, embeddings, biases, norms, and the running statistics of batch norms, which passes move.
  ///
  /// - Throws: `.usage` for a packed base
  package init(everythingOf model: Model) throws {
    if let packed = model.checkpoint.packed.first {
      throw NibbleError.usage(
        "\(.method, "full") trains float weights; \(path: model.path) holds packed ones, \(subject: packed.name.text) the first")
    }
    let (parts, shared) = (model.network.parts, model.sharedTokens)
    func add(_ id: ParameterID, _ matrix: Matrix) {
      let (rows, columns) = (matrix.native.rows, matrix.native.columns)
      let values = FloatStore(count: rows * columns)
      matrix.rows(0..<rows, into: values.start)
      matrices[id] = TrainedTensor(model.parameterNames[id], [rows, columns], values)
    }
    func add(_ vector: Vector?) {
      guard let vector, vectors[vector.id] == nil else { return }
      let values = Array(vector.values.values)
      vectors[vector.id] = TrainedTensor(model.parameterNames[vector.id], [values.count], FloatStore(values))
    }
    for table in model.embeddings + parts.looseRows { add(table.id, table.matrix) }
    for layer in model.linears where !parts.idle.contains(where: { $0.id == layer.id }) {
      if shared?.head.id != layer.id { add(layer.id, layer.matrix) }
      add(layer.bias)
    }
    if let shared {
      matrices[shared.head.id] = matrices[shared.tokens.id]
      // The file may hold the weight under both names.
      matrices[shared.tokens.id]?.otherNames.append(model.parameterNames[shared.head.id])
      add(shared.head.bias)
    }
    for (id, vector) in vectors { if let other = model.otherName(of: id) { vector.otherNames.append(model.parameterNames[other]) } }
    // So may a file with tables for an encoder and a decoder.
    if let table = model.tokenEmbedding, let copies = model.answering?.tableCopies { matrices[table.id]?.otherNames += copies }
    for norm in model.norms {
      add(norm.weight)
      add(norm.bias)
    }
    for vector in parts.looseVectors { add(vector) }
    for vector in parts.statistics {
      let values = Array(vector.values.values)
      statistics[vector.id] = TrainedTensor(model.parameterNames[vector.id], [values.count], FloatStore(values), isFrozen: true)
    }
  }

  /// A job that writes the model as it is now, in the types its weights had.
  package func model(of base: Checkpoint, to output: OutputSpec) throws -> StreamJob {
    var job = try StreamJob.dequantize(base, dtype: nil, to: output)
    job.warnings = base.warnings
    job.origin = nil
    let names = ModuleNames(job.items.map(\.source.name.text), of: base)
    for tensor in tensors + statistics.values {
      let bytes = [UInt8](UnsafeRawBufferPointer(tensor.values.values))
      for index in Set(([tensor.name] + tensor.otherNames).compactMap(names.index(of:))) {
        let source = job.items[index].source
        job.items[index].replacement = StoredTensor(source.name, .f32, source.shape, sections: [StoredSection(.data, bytes: bytes)])
      }
    }
    return job
  }
}
