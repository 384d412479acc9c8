import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// Hands out a checkpoint's tensors to the parts of a model, checks their shapes, and knows in the end which were left.
package final class WeightSource {
  package let mapped: MappedCheckpoint
  /// The model's own prefix ("model.", "bert."), which checkpoints of the bare model leave out.
  private let prefix: String
  /// Full names of parameters as the model knows them, by ID.
  package private(set) var names: [String] = []
  private var used: Set<ByteName> = []

  package init(_ mapped: MappedCheckpoint, prefix: String) {
    self.mapped = mapped
    self.prefix = prefix
  }

  private func tensor(_ name: String) -> StoredTensor? {
    let checkpoint = mapped.checkpoint
    if let found = checkpoint.tensor(ByteName(name)) { return found }
    if name.hasPrefix(prefix), let found = checkpoint.tensor(ByteName(String(name.dropFirst(prefix.count)))) { return found }
    return nil
  }

  /// Whether the checkpoint has a tensor of this name.
  package func has(_ name: String) -> Bool { tensor(name) != nil }

  private func take(_ name: String) throws -> StoredTensor {
    guard let tensor = tensor(name) else {
      throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) is missing; the model cannot run without it")
    }
    used.insert(tensor.name)
    return tensor
  }

  private func register(_ name: String) -> ParameterID {
    names.append(name)
    return names.count - 1
  }

  private func wrongShape(_ tensor: StoredTensor, _ expected: [Int]) -> NibbleError {
    NibbleError.badInput(
      "\(mapped.checkpoint.path): tensor \(quoted(tensor.name.text)) has shape \(tensor.logicalShape), "
        + "the configuration asks for \(expected)")
  }

  /// The vector `name` of `count` numbers.
  package func vector(_ name: String, count: Int) throws -> Vector {
    let tensor = try take(name)
    guard tensor.logicalShape == [count] else { throw wrongShape(tensor, [count]) }
    return Vector(id: register(name), values: FloatStore(try mapped.floats(tensor)))
  }

  /// The matrix `name`, [outputs, inputs], whatever codes or numbers hold it.
  private func matrix(_ name: String, outputs: Int, inputs: Int, isConv1D: Bool) throws -> Matrix {
    let tensor = try take(name)
    let logical = isConv1D ? [inputs, outputs] : [outputs, inputs]
    guard tensor.logicalShape == logical else { throw wrongShape(tensor, logical) }
    // Packed Conv1D weights are stored transposed already.
    return try Matrix(tensor, of: mapped, isTransposed: isConv1D != tensor.isTransposed)
  }

  package enum BiasRule { case none, required, optional }

  /// The linear layer `name`.
  package func linear(
    _ name: String, outputs: Int, inputs: Int, bias: BiasRule, isConv1D: Bool = false
  ) throws -> Linear {
    let weight = try matrix(name + ".weight", outputs: outputs, inputs: inputs, isConv1D: isConv1D)
    let id = register(name + ".weight")
    let hasBias = bias == .required || (bias == .optional && has(name + ".bias"))
    return Linear(
      name: name, id: id, matrix: weight, bias: hasBias ? try vector(name + ".bias", count: outputs) : nil, isConv1D: isConv1D)
  }

  /// The embedding `name` of `count` rows.
  package func embedding(_ name: String, count: Int, width: Int) throws -> Embedding {
    let table = try matrix(name + ".weight", outputs: count, inputs: width, isConv1D: false)
    guard !table.isTransposed else {
      throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) is stored transposed")
    }
    return Embedding(name: name, id: register(name + ".weight"), matrix: table)
  }

  /// A linear layer whose weight is an embedding's.
  package func tied(_ name: String, to embedding: Embedding, bias: Vector? = nil) -> Linear {
    // Some files hold the weight twice.
    if let copy = tensor(name + ".weight") { used.insert(copy.name) }
    return Linear(name: name, id: register(name + ".weight"), matrix: embedding.matrix, bias: bias, isConv1D: false)
  }

  package func norm(_ name: String, width: Int, hasBias: Bool) throws -> Norm {
    Norm(
      weight: try vector(name + ".weight", count: width),
      bias: hasBias ? try vector(name + ".bias", count: width) : nil)
  }

  /// Checks what was handed out against the checksums its container keeps.
  ///
  /// - Throws: `.integrity` naming file, tensor and section
  package func checkSections(threads: Int) throws {
    try mapped.checkSections(of: used.sorted().compactMap(mapped.checkpoint.tensor), threads: threads)
  }

  /// Refuses a checkpoint that holds tensors no part of the model has asked for: they may be what makes it another model.
  ///
  /// - Parameter ignored: what such files hold beside their weights
  package func checkNothingLeft(ignoring ignored: Pattern) throws {
    let left = try mapped.checkpoint.tensors.filter { try !used.contains($0.name) && !ignored.isFound(in: $0.name.text) }
    guard let first = left.first else { return }
    throw NibbleError.badInput(
      "\(mapped.checkpoint.path): \(left.count) tensor\(left.count == 1 ? "" : "s") the model has no use for, first "
        + "\(quoted(first.name.text)): what it is for is not implemented")
  }
}
