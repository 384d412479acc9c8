import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

/// Hands out a checkpoint's tensors to the parts of a model, checks their shapes, and knows in the end which were left.
package final class WeightSource {
  package let mapped: MappedCheckpoint
  private let spellings: TensorSpellings
  /// Where the model stands in a larger one: parameters have the names they have there.
  private let part: TextPart?
  /// Full names of parameters as the model knows them, by ID.
  package private(set) var names: [String] = []
  private var used: Set<ByteName> = []
  /// Names of tensors of another head than the model's.
  private(set) var unused: [String] = []
  /// Tensors of other parts of the whole: a model that takes pictures as well.
  private(set) var ofOtherParts: [StoredTensor] = []
  /// Of the random numbers that new heads begin with.
  var headSeed = 0
  /// Parameters that begin anew, whatever the checkpoint holds under their names.
  private var new: [String: (shape: [Int], values: [Float])] = [:]

  package init(_ mapped: MappedCheckpoint) {
    self.mapped = mapped
    spellings = TensorSpellings(of: mapped.checkpoint)
    part = mapped.checkpoint.family?.part
  }

  private func tensor(_ name: String) -> StoredTensor? {
    spellings.all(whole(name)).lazy.compactMap { self.mapped.checkpoint.tensor(ByteName($0)) }.first
  }

  /// What a parameter or a module of the model is called in the whole.
  private func whole(_ name: String) -> String { part?.whole(name) ?? name }

  /// Whether the checkpoint has a tensor of this name.
  package func has(_ name: String) -> Bool { new[name] != nil || tensor(name) != nil }

  /// Gives a layer new numbers: a random weight, and a bias of zeros.
  package func begin(_ name: String, outputs: Int, inputs: Int, hasBias: Bool) {
    new[name + ".weight"] = ([outputs, inputs], NewHead.values(outputs * inputs, stream: outputs, seed: headSeed))
    if hasBias { new[name + ".bias"] = ([outputs], [Float](repeating: 0, count: outputs)) }
  }

  /// Gives a norm new numbers: ones, and a bias of zeros.
  package func beginNorm(_ name: String, width: Int, hasBias: Bool) {
    new[name + ".weight"] = ([width], [Float](repeating: 1, count: width))
    if hasBias { new[name + ".bias"] = ([width], [Float](repeating: 0, count: width)) }
  }

  /// The new numbers of parameter `name`; what the checkpoint has in their place counts as used.
  private func begun(_ name: String) -> (shape: [Int], values: [Float])? {
    guard let numbers = new[name] else { return nil }
    if let old = tensor(name) { used.insert(old.name) }
    return numbers
  }

  /// Paths of the modules of other parts that have parameters.
  var otherModules: [String] {
    Set(ofOtherParts.compactMap { tensor in part?.inModules(tensor.name.text).split(separator: ".").dropLast().joined(separator: ".") }).sorted()
  }

  private func take(_ name: String) throws -> StoredTensor {
    guard let tensor = tensor(name) else {
      throw NibbleError.badInput("\(path: mapped.checkpoint.path): \(tensor: whole(name)) is missing; the model cannot run without it")
    }
    used.insert(tensor.name)
    return tensor
  }

  /// A number for a parameter that is found under this name.
  func register(_ name: String) -> ParameterID {
    names.append(whole(name))
    return names.count - 1
  }

  private func wrongShape(_ tensor: StoredTensor, _ expected: [Int]) -> NibbleError {
    NibbleError.badInput(
      "\(path: mapped.checkpoint.path): \(tensor: tensor.name.text) has shape \(tensor.logicalShape), "
        + "the configuration asks for \(expected)")
  }

  /// The vector `name` of `count` numbers.
  package func vector(_ name: String, count: Int) throws -> Vector {
    if let begun = begun(name), begun.shape == [count] { return Vector(id: register(name), values: FloatStore(begun.values)) }
    let tensor = try take(name)
    guard tensor.logicalShape == [count] else { throw wrongShape(tensor, [count]) }
    return Vector(id: register(name), values: FloatStore(try mapped.floats(tensor)))
  }

  /// The matrix `name`, [outputs, inputs], whatever codes or numbers hold it.
  private func matrix(_ name: String, outputs: Int, inputs: Int, isConv1D: Bool) throws -> Matrix {
    if let begun = begun(name), begun.shape == [outputs, inputs] { return Matrix(begun.values, rows: outputs, columns: inputs) }
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
      name: whole(name), id: id, matrix: weight, bias: hasBias ? try vector(name + ".bias", count: outputs) : nil, isConv1D: isConv1D)
  }

  /// The convolution `name`, a matrix of windows.
  ///
  /// - Parameter window: [channels, height, width]
  package func convolution(_ name: String, outputs: Int, window: [Int], bias: BiasRule) throws -> Linear {
    let tensor = try take(name + ".weight")
    guard tensor.logicalShape == [outputs] + window else { throw wrongShape(tensor, [outputs] + window) }
    let weight = try Matrix(tensor, of: mapped, isTransposed: false, flattens: true)
    let id = register(name + ".weight")
    let hasBias = bias == .required || (bias == .optional && has(name + ".bias"))
    return Linear(
      name: name, id: id, matrix: weight, bias: hasBias ? try vector(name + ".bias", count: outputs) : nil, isConv1D: false,
      window: window)
  }

  /// The embedding `name` of `count` rows.
  ///
  /// - Parameter head: the output head that shares its weight; a file may hold the weight under either name
  package func embedding(_ name: String, count: Int, width: Int, sharedWith head: String? = nil) throws -> Embedding {
    let stored = [name, head].compactMap { $0 }.first { has($0 + ".weight") } ?? name
    let table = try matrix(stored + ".weight", outputs: count, inputs: width, isConv1D: false)
    guard !table.isTransposed else {
      throw NibbleError.badInput("\(path: mapped.checkpoint.path): \(tensor: stored) is stored transposed")
    }
    return Embedding(name: whole(name), id: register(name + ".weight"), matrix: table)
  }

  /// The output head `name` of a model whose configuration ties it to `embedding`.
  ///
  /// A file may hold a weight for both. transformers ties them if the two are equal; if not, each is used as it is.
  package func tied(_ name: String, to embedding: Embedding, hasBias: Bool = false) throws -> Linear {
    var weight = embedding.matrix
    if has(name + ".weight"), has(embedding.name + ".weight") {
      let own = try matrix(name + ".weight", outputs: embedding.count, inputs: embedding.width, isConv1D: false)
      if own.isTransposed || !own.equals(embedding.matrix) { weight = own }
    }
    let id = register(name + ".weight")
    let bias = hasBias ? try vector(name + ".bias", count: embedding.count) : nil
    return Linear(name: whole(name), id: id, matrix: weight, bias: bias, isConv1D: false)
  }

  /// Counts a copy of an embedding's weight as used.
  ///
  /// - Throws: `.badInput` where its values are others
  package func checkCopy(_ name: String, of embedding: Embedding) throws {
    let own = try matrix(name + ".weight", outputs: embedding.count, inputs: embedding.width, isConv1D: false)
    guard !own.isTransposed, own.equals(embedding.matrix) else {
      throw NibbleError.badInput(
        "\(path: mapped.checkpoint.path): \(tensor: name + ".weight") and \(tensor: embedding.name + ".weight") differ; tables of their own are not implemented")
    }
  }

  /// Rows that are a parameter by themselves, [1, count, width] in the file.
  package func looseRows(_ name: String, count: Int, width: Int) throws -> Embedding {
    let tensor = try take(name)
    guard tensor.logicalShape == [1, count, width] else { throw wrongShape(tensor, [1, count, width]) }
    let values = FloatStore(try mapped.floats(tensor))
    return Embedding(name: name, id: register(name), matrix: Matrix(values, rows: count, columns: width))
  }

  package func norm(_ name: String, width: Int, hasBias: Bool) throws -> Norm {
    Norm(
      weight: try vector(name + ".weight", count: width),
      bias: hasBias ? try vector(name + ".bias", count: width) : nil)
  }

  /// The layer `name` with a bias, of the shape it has in the checkpoint.
  package func linear(_ name: String, outputs: Int) throws -> Linear {
    let shape = try take(name + ".weight").logicalShape
    guard shape.count == 2 else { throw wrongShape(try take(name + ".weight"), [outputs, 0]) }
    return try linear(name, outputs: outputs, inputs: shape[1], bias: .required)
  }

  /// Checks what was handed out against the checksums its container keeps.
  ///
  /// - Throws: `.integrity` naming file, tensor and section
  package func checkSections(threads: Int) throws {
    try mapped.checkSections(of: used.sorted().compactMap(mapped.checkpoint.tensor), threads: threads)
  }

  /// Refuses a checkpoint that holds tensors no part of the model has asked for: they may be what makes it another model.
  ///
  /// - Parameters:
  ///   - ignored: what such files hold beside their weights
  ///   - head: what belongs to another head than the model's, which such files may hold
  package func checkNothingLeft(ignoring ignored: Pattern? = nil, head: String? = nil) throws {
    let head = try head.map { try Pattern($0) }
    var left = mapped.checkpoint.tensors.filter { !used.contains($0.name) }
    if let part {
      ofOtherParts = left.filter { part.isOther($0.name.text) }
      left = left.filter { !part.isOther($0.name.text) }
    }
    if let ignored { left = try left.filter { try !ignored.isFound(in: $0.name.text) } }
    if let head {
      unused = try left.map(\.name.text).filter { try head.isFound(in: $0) }
      left = try left.filter { try !head.isFound(in: $0.name.text) }
    }
    guard let first = left.first else { return }
    throw NibbleError.badInput(
      "\(path: mapped.checkpoint.path): \(left.count) tensor\(left.count == 1 ? "" : "s") the model has no use for, first "
        + "\(quoted(first.name.text)): what it is for is not implemented")
  }
}
