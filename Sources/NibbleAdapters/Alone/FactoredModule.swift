import NibbleCore

/// The factors of one module, whatever they came from, on their way into a file.
struct FactoredModule {
  /// In the base.
  var path: String
  /// Whether the first factor is looked up.
  var isEmbedding = false
  /// What the first factor reads: [inputs], of convolutions [channels, height, width].
  var inputShape: [Int]
  var outputs: Int
  /// Without DoRA's part.
  var factors: Merging.Factors
  /// The bias of the second factor, which the scale applies to.
  var bias: [Float]?
  /// DoRA's magnitudes, one an output.
  var magnitude: [Float]?

  var inputs: Int { elementCount(of: inputShape) ?? 0 }

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
    module.bias = bias.map { $0.map { Float(ratio * Double($0)) } }
    module.factors.scale = scale
    return module
  }

  /// Throws for numbers that are beyond float32.
  func checkFinite() throws {
    guard (factors.a + factors.b + (bias ?? [])).allSatisfy(\.isFinite) else {
      throw NibbleError.quality("\(module: path): its new factors would have values beyond float32")
    }
  }

  /// As PEFT stores them.
  var tensors: [AdapterFolder.Tensor] {
    let name = AdapterFile.prefix + path
    let (first, second) = isEmbedding ? ("lora_embedding_A", "lora_embedding_B") : ("lora_A.weight", "lora_B.weight")
    let rank = factors.rank
    var tensors: [AdapterFolder.Tensor] = [
      .init("\(name).\(first)", [rank] + inputShape, factors.a),
      .init("\(name).\(second)", [outputs, rank] + inputShape.dropFirst().map { _ in 1 }, factors.b),
    ]
    if let bias { tensors.append(.init(name + ".lora_B.bias", [outputs], bias)) }
    if let magnitude {
      let isConvolution = inputShape.count > 1
      tensors.append(.init(name + ".lora_magnitude_vector", isConvolution ? [1, outputs, 1, 1] : [outputs], magnitude))
    }
    return tensors
  }
}

extension FactoredModule {
  /// A module of an adapter in PEFT's layout.
  ///
  /// - Throws: `.quality` for numbers that are not finite
  init(_ module: AdapterFile.AdaptedModule, of file: AdapterFile) throws {
    for tensor in [module.a, module.b, module.bias, module.magnitude].compactMap({ $0 }) { try file.checkFinite(tensor) }
    self.init(
      path: module.path, isEmbedding: module.isEmbedding, inputShape: Array(module.a.shape[1...]), outputs: module.outputs,
      factors: Merging.Factors(
        a: try file.mapped.floats(module.a), b: try file.mapped.floats(module.b), rank: module.rank, scale: module.scale),
      bias: try module.bias.map { try file.mapped.floats($0) }, magnitude: try module.magnitude.map { try file.mapped.floats($0) }
    )
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
  private static func alpha(_ factors: Merging.Factors) -> JSON {
    let alpha = factors.scale * Double(factors.rank)
    let whole = alpha.rounded()
    return abs(whole) < 1e9 && whole / Double(factors.rank) == factors.scale ? JSON(Int(whole)) : JSON(alpha)
  }
}
