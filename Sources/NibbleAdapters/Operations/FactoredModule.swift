import NibbleCore

/// The numbers of one module with factors, whatever they came from, on their way into a file.
struct FactoredModule {
  /// In the base.
  var path: String
  let method: any AdapterMethod.Type
  /// The module itself; its rank is the factors'.
  private let module: ModuleShape
  var factors: LowRankFactors
  /// What the method has beside factors, by part.
  var extras: [String: [Float]]

  init(
    path: String, method: any AdapterMethod.Type, _ module: ModuleShape, factors: LowRankFactors, extras: [String: [Float]] = [:]
  ) {
    (self.path, self.method, self.module, self.factors, self.extras) = (path, method, module, factors, extras)
  }

  var isEmbedding: Bool { module.kind == .embedding }
  var inputs: Int { factors.inputs }
  var outputs: Int { factors.outputs }
  var isPlain: Bool { extras.isEmpty && !method.scalesOutputs }

  var shape: ModuleShape {
    var shape = module
    shape.rank = factors.rank
    return shape
  }

  /// The same change with factors of a higher rank, filled up with zeros, as PEFT does.
  func padded(to rank: Int) -> FactoredModule {
    var module = self
    let own = factors.rank
    guard rank > own else { return self }
    module.factors.a += [Float](repeating: 0, count: (rank - own) * inputs)
    module.factors.b = [Float](repeating: 0, count: outputs * rank)
    for output in 0..<outputs {
      for k in 0..<own { module.factors.b[output * rank + k] = factors.b[output * own + k] }
    }
    module.factors.rank = rank
    return module
  }

  /// The same change with another scale, the second factor taking the difference.
  func scaled(to scale: Double) -> FactoredModule {
    guard scale != factors.scale else { return self }
    var module = self
    let ratio = factors.scale / scale
    module.factors.b = factors.b.map { Float(ratio * Double($0)) }
    module.factors.scale = scale
    module.scaleExtras(ratio)
    return module
  }

  /// Multiplies the parts that the scale of the factors is for, too.
  mutating func scaleExtras(_ ratio: Double) {
    for part in method.extras where part.isScaled { extras[part.name] = extras[part.name]?.map { Float(ratio * Double($0)) } }
  }

  /// Throws for numbers that are beyond float32.
  func checkFinite() throws {
    guard (factors.a + factors.b + extras.values.joined()).allSatisfy(\.isFinite) else {
      throw NibbleError.quality("\(module: path): its new factors would have values beyond float32")
    }
  }

  /// As PEFT stores them.
  var tensors: [AdapterFolder.Tensor] {
    let (shape, names) = (shape, method.parts)
    let numbers = extras.merging([LoRA.first: factors.a, LoRA.second: factors.b]) { own, _ in own }
    return names.compactMap { part in
      numbers[part.name].map { .init(AdapterFile.prefix + path + part.suffix(shape), part.shape(shape), $0) }
    }
  }
}

extension FactoredModule {
  /// A module of an adapter in PEFT's layout; what folds into plain factors, as these.
  ///
  /// - Throws: `.quality` for numbers that are not finite, `.usage` for methods without factors
  init(_ module: AdapterFile.AdaptedModule, of file: AdapterFile) throws {
    let factors = try file.factors(of: module)
    guard !module.method.foldsToLoRA else {
      let shape = ModuleShape(module.shape.kind, input: module.shape.input, outputs: module.shape.outputs)
      self.init(path: module.path, method: LoRA.self, shape, factors: factors)
      return
    }
    var extras: [String: [Float]] = [:]
    for name in module.extras { extras[name] = try module.parts[name].map { try file.mapped.floats($0) } }
    self.init(path: module.path, method: module.method, module.shape, factors: factors, extras: extras)
  }
}

extension AdapterFolder {
  /// An adapter of these modules, with `config` saying their ranks and scales.
  init(_ modules: [FactoredModule], carried: [Tensor] = [], config: JSON, binding: AdapterBinding?) {
    let rank = modules.map(\.factors.rank).max() ?? 1
    let alphas = modules.map { Self.alpha($0.factors) }
    let common = zip(modules, alphas).first { $0.0.factors.rank == rank }?.1 ?? JSON(rank)
    func patterns(_ values: [JSON], but common: JSON) -> JSON {
      .object(zip(modules, values).filter { $1 != common }.map { ($0.path.replacing(".", with: "\\."), $1) })
    }
    let changes: [(String, JSON)] = [
      ("r", JSON(rank)), ("lora_alpha", common), ("use_rslora", .bool(false)), ("init_lora_weights", .bool(true)),
      ("rank_pattern", patterns(modules.map { JSON($0.factors.rank) }, but: JSON(rank))),
      ("alpha_pattern", patterns(alphas, but: common)),
    ]
    self.init(
      config: changes.reduce(config) { $0.setting($1.0, to: $1.1) }, tensors: carried + modules.flatMap(\.tensors),
      binding: binding)
  }

  /// What divided by the rank gives the scale, a whole number where one does.
  private static func alpha(_ factors: LowRankFactors) -> JSON {
    let alpha = factors.scale * Double(factors.rank)
    let whole = alpha.rounded()
    return abs(whole) < 1e9 && whole / Double(factors.rank) == factors.scale ? JSON(Int(whole)) : JSON(alpha)
  }
}
