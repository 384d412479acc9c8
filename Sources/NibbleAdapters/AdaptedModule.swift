import NibbleCompute
import NibbleCore
import NibbleFormats

extension AdapterFile {
  /// What an adapter holds for one module of its base.
  public struct AdaptedModule: Sendable {
    /// The module's path in the base.
    public let path: String
    package let method: any AdapterMethod.Type
    /// What the tensors show of the module.
    package private(set) var shape: ModuleShape
    /// Its tensors by the names their method has for them: `lora_A`, `lora_B`, `lora_magnitude_vector`.
    public let parts: [String: StoredTensor]
    /// What the product of the factors is multiplied with.
    public let scale: Double
    /// Whether the factors are of a parameter as its module holds it.
    package var isParameter = false
    /// Whether they were part of a stack of experts: those read x as the factors of a module do, however files store the experts.
    package var isOfStack = false

    /// What messages call its method.
    public var methodName: String { method.name }
    /// The rank of its factors as configured; 0 for methods without.
    public var rank: Int { shape.rank }
    /// The rank of the change.
    package var pairRank: Int { method.pairRank(shape) }
    /// Whether the module is an embedding, whose first factor is looked up.
    public var isEmbedding: Bool { shape.kind == .embedding }
    /// Whether the module is a convolution.
    public var isConvolution: Bool { shape.kind == .convolution }
    /// Its tensors in the order of the method's parts.
    package var tensors: [StoredTensor] { method.parts.compactMap { parts[$0.name] } }
    /// The names of what it has beside factors.
    package var extras: [String] { method.extras.map(\.name).filter { parts[$0] != nil } }
    /// Whether it is two factors and nothing else, or folds into such.
    package var isPlain: Bool { shape.rank > 0 && (extras.isEmpty || method.foldsToLoRA) }

    /// For messages about a module that is not plain: what it is beside factors.
    package var beyondFactors: String {
      extras.isEmpty || method.scalesOutputs ? method.name : method.extras.first { parts[$0.name] != nil }?.flag ?? method.name
    }

    fileprivate mutating func complete(inputs: Int, outputs: Int) {
      shape.input = shape.input ?? [inputs]
      shape.outputs = shape.outputs ?? outputs
    }

    mutating func turn(_ other: ModuleShape) {
      shape = other
      shape.isTurned = true
    }

    /// The same with numbers that it shares with others.
    func sharing(_ tensors: [String: StoredTensor]) -> AdaptedModule {
      AdaptedModule(path: path, method: method, shape: shape, parts: parts.merging(tensors) { $1 }, scale: scale, isParameter: isParameter, isOfStack: isOfStack)
    }

    /// For messages: the shapes of its tensors.
    package var shapes: String { tensors.map { "\($0.shape)" }.joined(separator: " and ") }
  }

  /// The numbers of a module, factors where they lie.
  ///
  /// - Parameter weight: the layer's, where it stays as it is
  /// - Throws: `.quality` for NaN and infinite values
  package func numbers(of module: AdaptedModule, weight: Matrix? = nil, _ engine: Engine) throws -> MethodNumbers {
    var numbers = MethodNumbers(scale: module.scale, shape: module.shape, weight: weight, engine)
    for part in module.method.parts {
      guard let tensor = module.parts[part.name] else { continue }
      try checkFinite(tensor)
      // Nothing may be left of a module.
      if tensor.count > 0, part.isFactor || part.isMatrix || part.sharing != nil { numbers.matrices[part.name] = try matrix(tensor) }
      if part.sharing == nil, !part.isFactor && !part.isMatrix || module.isEmbedding {
        numbers.values[part.name] = FloatStore(try mapped.floats(tensor))
      }
    }
    return numbers
  }

  /// What the method makes of a module's layer.
  ///
  /// - Throws: `.quality` for NaN and infinite values, `.adapterMismatch` for missing numbers
  package func method(of module: AdaptedModule, weight: Matrix? = nil, _ engine: Engine) throws -> any AdapterMethod {
    guard let method = module.method.init(try numbers(of: module, weight: weight, engine)) else {
      throw mismatch(module.path, "lacks numbers of \(module.method.name)")
    }
    return method
  }

  /// A module's factors in hand.
  ///
  /// - Throws: `.usage` for methods without
  func factors(of module: AdaptedModule) throws -> LowRankFactors {
    if let factors = try knownFactors(of: module) { return factors }
    let hasThem = module.rank > 0 && (module.method.hasFactors || module.method.folds)
    throw NibbleError.usage(
      "\(path: path): \(module: module.path) is adapted by \(module.method.name), which "
        + (hasThem ? "does not show the size of its layer; \(.base) does" : "has no factors"))
  }

  /// The same, nil for methods without and where its tensors do not show the sizes of the layer.
  func knownFactors(of module: AdaptedModule) throws -> LowRankFactors? {
    guard module.rank > 0, module.method.hasFactors || module.method.folds, module.shape.inputs != nil, module.shape.outputs != nil else {
      return nil
    }
    return try method(of: module, Engine(.f32, team: Team(threads: 1))).pair.map { LowRankFactors($0) }
  }

  private func matrix(_ tensor: StoredTensor) throws -> Matrix {
    if [.f32, .f16, .bf16].contains(tensor.dtype) { return try Matrix(tensor, of: mapped, isTransposed: false, flattens: true) }
    let values = try mapped.floats(tensor)
    return Matrix(values, rows: tensor.shape[0], columns: values.count / max(tensor.shape[0], 1))
  }
}

extension AdapterFile {
  /// Numbers of a pair that is made of a file's: a gigabyte. A small file with large settings asks for more than any layer takes.
  private static let mostFolded = 1 << 28

  /// A module of the parts found for it.
  ///
  /// - Throws: `.adapterMismatch` for parts that are missing, not asked for, or do not fit together
  func module(_ path: String, _ parts: [String: StoredTensor], isEmbedding: Bool) throws -> AdaptedModule {
    func fail(_ reason: MessageText) -> NibbleError {
      NibbleError(.adapterMismatch, "\(path: self.path): \(module: path): \(reason)")
    }
    let method = config.method
    if let other = parts.keys.sorted().first(where: { method.part($0) == nil }) {
      throw fail("it has \(other), and adapter_config.json describes \(method.name), which has none")
    }
    for part in method.parts {
      let isThere = parts[part.name] != nil
      guard let flag = part.flag else {
        guard !isThere, !part.isOptional, part.sharing == nil else { continue }
        let others = method.parts.map(\.name).filter { parts[$0] != nil }
        throw fail("\(part.name) is missing" + (others.isEmpty ? "" : "; it has \(others.joined(separator: ", "))"))
      }
      guard isThere != config.flags.contains(flag), !(isEmbedding && !isThere) else { continue }
      throw fail(isThere ? "it has \(part.name), and \(flag) is not set" : "\(flag) is set, and \(part.name) is missing")
    }
    let shapes = parts.mapValues(\.shape)
    let text = method.parts.compactMap { shapes[$0.name].map { "\($0)" } }.joined(separator: " and ")
    let settings = try config.settings(of: path)
    guard let shape = method.shape(of: shapes, isEmbedding: isEmbedding, settings: settings) else {
      let places = method.folds ? "a linear layer" : "a linear layer, embedding or convolution"
      throw fail("tensors of shapes \(text) do not fit together as \(method.name) of \(places)")
    }
    if let reason = method.refusal(of: shape) { throw fail(reason) }
    if method.folds, !(elementCount(of: [method.pairRank(shape), (shape.inputs ?? 0) + (shape.outputs ?? 0)]).map { $0 <= Self.mostFolded } ?? false) {
      throw fail("its settings make factors of it for \(shape.inputs ?? 0) inputs and \(shape.outputs ?? 0) outputs, which no layer has")
    }
    for part in method.parts {
      guard let found = shapes[part.name] else { continue }
      let expected = part.shape(shape)
      guard part.sharing == nil else { continue }
      guard found == expected || found.filter({ $0 != 1 }) == expected.filter({ $0 != 1 }) && !part.isFactor else {
        throw fail("\(part.name) has shape \(found), expected \(expected)")
      }
    }
    guard let key = method.rankKey else { return AdaptedModule(path: path, method: method, shape: shape, parts: parts, scale: 1) }
    let expected = try config.rank(of: path)
    guard shape.rank == expected || shape.rank == 0 && !method.hasFactors else {
      throw fail("its factors have rank \(shape.rank), adapter_config.json says \(key)=\(expected)")
    }
    return AdaptedModule(
      path: path, method: method, shape: shape, parts: parts, scale: try config.scale(of: path, rank: expected),
      isParameter: config.parameter(of: path) != nil, isOfStack: config.stackedParameter(of: path) != nil)
  }

  /// A module of a layer that takes and gives so many numbers, which its tensors may not show.
  ///
  /// - Throws: `.adapterMismatch` where the two do not go together
  func completed(_ module: AdaptedModule, inputs: Int, outputs: Int) throws -> AdaptedModule {
    guard module.shape.input == nil || module.shape.outputs == nil else { return module }
    var own = module
    own.complete(inputs: inputs, outputs: outputs)
    if let reason = own.method.refusal(of: own.shape) { throw mismatch(module.path, reason) }
    return own
  }
}
