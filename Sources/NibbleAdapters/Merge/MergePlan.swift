import NibbleCompute
import NibbleCore
import NibbleFormats

/// Which tensors of a base get what from which adapter.
struct MergePlan: @unchecked Sendable {
  private let base: Checkpoint
  private let modules: ModuleNames
  private let moduleTensors: [Int]
  private let parameters: ModuleNames
  /// By the index of the base's tensor.
  var matrices: [Int: Merging] = [:]
  var vectors: [Int: VectorChange] = [:]
  var tokenRows: [Int: TokenRowsChange] = [:]
  var replacements: [Int: (tensor: StoredTensor, file: AdapterFile)] = [:]

  init(_ base: Checkpoint) {
    self.base = base
    let ending = ".weight"
    moduleTensors = base.tensors.indices.filter {
      base.tensors[$0].name.text.hasSuffix(ending) && base.tensors[$0].shape.count >= 2
    }
    modules = ModuleNames(moduleTensors.map { [base] in String(base.tensors[$0].name.text.dropLast(ending.count)) }, of: base)
    parameters = ModuleNames(base.tensors.map(\.name.text), of: base)
  }

  /// Lets factors be combined as PEFT does.
  ///
  /// - Returns: a warning that tells how far that is from the sum of the deltas
  mutating func combine(_ options: MergeOptions) throws -> [Warning] {
    var worst = (name: "", error: 0.0)
    for (index, merging) in matrices.sorted(by: { $0.key < $1.key }) {
      try Interrupt.check()
      let name = base.tensors[index].name.text
      matrices[index]?.combination = try merging.combination(options, of: name)
      let error = try matrices[index]?.combinationError() ?? 0
      if !(error <= worst.error) { worst = (name, error) }
    }
    guard !(worst.error <= 1e-5) else { return [] }
    return [
      .init(
        .precision,
        "PEFT's \(options.method.rawValue) combination is not the sum of the deltas: it is up to "
          + "\(decimal(100 * worst.error, 1)) % of the sum away, in \(subject: worst.name)")
    ]
  }

  mutating func add(_ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    try file.checkEverythingMatches(modules, parameters, of: base.path)
    for (name, tensor) in file.replacements { try replace(name, tensor, one) }
    for rows in file.tokenRows { try add(rows, one) }
    for module in file.modules {
      guard let found = modules.index(of: module.path) else { continue }
      let index = moduleTensors[found]
      try add(module, to: index, one)
    }
  }

  private mutating func add(_ given: AdapterFile.AdaptedModule, to index: Int, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    let tensor = base.tensors[index]
    let isInputsFirst = try given.isEmbedding || !given.isConvolution && base.storesInputsFirst(tensor, given, of: file)
    let module = isInputsFirst ? given.turned(as: .linear) : given
    if let other = matrices[index], other.isInputsFirst != isInputsFirst {
      throw NibbleError.usage("\(subject: tensor.name.text) is adapted as an embedding and as a parameter; merge one of the adapters")
    }
    let shape = tensor.logicalShape
    if let own = module.shape.input, module.isConvolution, shape.count == 4, shape[0] == module.shape.outputs,
      shape[2...] == own[1...],
      shape[1] < own[0]
    {
      throw file.mismatch(
        module.path, "is a grouped convolution: its factors see all \(own[0]) channels and their sum with \(shape) is none")
    }
    let weight = isInputsFirst ? Array(shape.reversed()) : shape
    guard module.shape.weight(like: weight) == weight else {
      if weight.count == 2, let other = file.unrecordedGroups(module, inputs: weight[1], outputs: weight[0]) { throw other }
      throw file.mismatch(
        module.path, "has tensors of shapes \(module.shapes), the base's weight has the shape \(shape)")
    }
    guard tensor.dtype.isFloat else {
      throw file.mismatch(module.path, "is of \(tensor.dtype.rawValue), which is not merged into")
    }
    let own = module.shape.kind == .linear && shape.count == 2 ? try file.completed(module, inputs: weight[1], outputs: weight[0]) : module
    let part = try Merging.Part(own, of: file, weight: one.weight)
    matrices[index, default: Merging()].isInputsFirst = isInputsFirst
    matrices[index]?.parts.append(part)
    try addBias(part)
  }

  /// What the method makes of the layer's bias.
  private mutating func addBias(_ part: Merging.Part) throws {
    let file = part.file
    let (bias, scale) = (part.method.bias, part.module.method.scalesBias ? part.method.scale : nil)
    guard let index = parameters.index(of: part.module.path + ".bias") else {
      guard bias == nil else { throw file.mismatch(part.module.path, "has a bias, and the base has none to merge it into") }
      return
    }
    guard bias != nil || scale != nil else { return }
    let count = base.tensors[index].count
    guard base.tensors[index].shape == [count], (bias ?? scale)?.count == count else {
      throw file.mismatch(part.module.path, "has a bias of \((bias ?? scale)?.count ?? 0) numbers")
    }
    var change = vectors[index] ?? VectorChange(count: count)
    change.add(bias, scale: scale, weight: part.weight)
    vectors[index] = change
  }

  private mutating func add(_ rows: AdapterFile.TokenRows, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    guard let found = modules.index(of: rows.path) else { return }
    try add(rows, to: moduleTensors[found], one)
    if let head = base.headFollowing(base.tensors[moduleTensors[found]].name),
      !file.tokenRows.contains(where: { $0.path + ".weight" == base.tensors[head].name.text })
    {
      try add(rows, to: head, one)
    }
  }

  private mutating func add(_ rows: AdapterFile.TokenRows, to index: Int, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    let shape = base.tensors[index].logicalShape
    guard shape.count == 2, rows.values.shape[1] == shape[1], rows.tokens.allSatisfy({ $0 < shape[0] }) else {
      throw file.mismatch(
        rows.path,
        "has rows of \(rows.values.shape[1]) numbers up to token \(rows.tokens.max() ?? 0), the base's weight has the shape \(shape)"
      )
    }
    try file.checkFinite(rows.values)
    var change = tokenRows[index] ?? TokenRowsChange(columns: shape[1])
    guard change.add(rows.tokens, FloatStore(try file.mapped.floats(rows.values)), weight: Float(one.weight)) else {
      throw NibbleError.usage("two adapters replace rows of \(subject: rows.path) for the same token; merge one of them")
    }
    tokenRows[index] = change
  }

  /// Throws where what adapters ask of one tensor does not go together.
  func checkTogether() throws {
    for index in tokenRows.keys.sorted() where replacements[index] != nil || matrices[index].map(\.takesRows) == false {
      throw NibbleError.usage(
        "\(subject: base.tensors[index].name.text) has single rows that were trained and is adapted or replaced otherwise too, which is not merged"
      )
    }
  }

  private mutating func replace(_ name: String, _ tensor: StoredTensor, _ one: MergeOptions.Weighted) throws {
    let file = one.adapter
    guard let index = parameters.index(of: name) else { return }
    let own = base.tensors[index]
    let resizes =
      base.vocabularyTensors.contains(own.name) && tensor.shape.count == 2 && tensor.shape[1...] == own.logicalShape[1...]
    let isOtherHead = file.binding?.head != nil && base.isHead(own.name.text) && tensor.shape.dropFirst() == own.logicalShape.dropFirst()
    guard tensor.shape == own.logicalShape || resizes || isOtherHead else {
      throw NibbleError(
        .adapterMismatch,
        "\(path: file.path): \(tensor: tensor.name.text) has shape \(tensor.shape), the base's \(own.logicalShape)")
    }
    guard tensor.dtype == own.dtype && !own.isPacked || [.f32, .f16, .bf16, .f64].contains(tensor.dtype) && own.dtype.isFloat
    else {
      throw NibbleError(
        .adapterMismatch,
        "\(path: file.path): \(tensor: tensor.name.text) is of \(tensor.dtype.rawValue), which does not take the place of the base's \(own.dtype.rawValue)"
      )
    }
    guard tensor.count > 0 else {
      throw NibbleError(
        .adapterMismatch, "\(path: file.path): \(tensor: tensor.name.text) of shape \(tensor.shape) holds nothing")
    }
    try file.checkFinite(tensor)
    guard one.weight == 1 else {
      throw NibbleError.usage("\(path: file.path) replaces \(subject: own.name.text) whole and can only be merged with weight 1")
    }
    if let other = replacements[index] {
      throw NibbleError.usage(
        "\(path: other.file.path) and \(path: file.path) both replace \(subject: own.name.text); merge one of them")
    }
    replacements[index] = (tensor, file)
  }
}
