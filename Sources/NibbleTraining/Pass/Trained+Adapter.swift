import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

extension Trained {
  /// An adapter's own numbers, to be trained on: the factors of its modules and what it trained whole.
  ///
  /// - Throws: `.adapterMismatch` for adapters that do not fit, `.usage` for parts that are not trained here
  package init(_ file: AdapterFile, on model: Model) throws {
    let linears = model.linears
    let modules = ModuleNames(linears.map(\.name), of: model.checkpoint)
    let parameters = ModuleNames(model.parameterNames, of: model.checkpoint)
    try file.checkEverythingMatches(modules, parameters, of: model.path)
    func tensor(_ stored: StoredTensor, _ shape: [Int]? = nil) throws -> TrainedTensor {
      TrainedTensor(stored.name.text, shape ?? stored.shape, FloatStore(try file.mapped.floats(stored)))
    }
    for module in file.modules {
      guard let index = modules.index(of: module.path) else { continue }
      let layer = linears[index]
      guard module.inputs == layer.inputs, module.outputs == layer.outputs, !module.isConvolution, !module.isEmbedding else {
        throw file.mismatch(module.path, "has factors of shapes \(module.a.shape) and \(module.b.shape)")
      }
      guard module.bias == nil else { throw NibbleError.usage("\(file.path): lora_bias is not trained") }
      let b = try tensor(module.b)
      b.isSecondFactor = true
      factors[layer.id] = TrainedFactors(
        a: try tensor(module.a), b: b, scale: Float(module.scale), magnitude: try module.magnitude.map { try tensor($0) })
    }
    for (name, stored) in file.replacements {
      guard let id = parameters.index(of: name) else { continue }
      if stored.shape.count == 1 { vectors[id] = try tensor(stored) } else { matrices[id] = try tensor(stored) }
    }
  }
}
