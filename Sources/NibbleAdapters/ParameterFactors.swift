import NibbleCore

// PEFT's `target_parameters`: factors of a parameter as its module holds it, B · A in its shape. Of a linear layer's weight, which is
// stored [outputs, inputs], that is what a module's factors are. A Conv1D's weight and an embedding's are stored [inputs, outputs]: these
// factors are the layer's, turned.

extension AdapterConfig {
  /// The parameter of module `path` that factors are of; nil for factors of the module.
  func parameter(of path: String) -> String? {
    let name = "weight"
    return stackedParameter(of: path) != nil || parameter(name, isOf: path) ? name : nil
  }

  /// Whether the parameter `name` of module `path` has factors.
  func parameter(_ name: String, isOf path: String) -> Bool {
    let full = path + "." + name
    return targetParameters.contains { full == $0 || full.hasSuffix("." + $0) }
  }

  /// What patterns of ranks and alphas are looked for in.
  func patternPath(_ path: String) -> String { stackedParameter(of: path) ?? parameter(of: path).map { path + "." + $0 } ?? path }

  /// Why `target_parameters` cannot be what the configuration says; nil where it can, or is not there.
  static func refusalOfParameters(_ targets: [String], _ config: JSON, flags: Set<String>, _ method: any AdapterMethod.Type) -> MessageText? {
    guard !targets.isEmpty else { return nil }
    if let other = targets.first(where: { target in
      !(target.split(separator: ".").last.map { $0 == "weight" || AdapterConfig.isStacked($0) } ?? false)
    }) {
      return "\(key: "target_parameters") names \(quoted(other)): factors of other parameters than the weights of layers and embeddings, and "
        + "\(quoted("gate_up_proj")) and \(quoted("down_proj")) of experts, are not implemented"
    }
    let odd = ["fan_in_fan_out", "lora_bias"].first(where: flags.contains) ?? method.flag
      ?? ((config["lora_dropout"]?.double ?? 0) > 0 ? "lora_dropout" : nil)
    return odd.map { "\(key: $0) does not go with \(quoted("target_parameters")), in PEFT either" }
  }
}

extension AdapterFile.AdaptedModule {
  /// The module of a layer or embedding whose weight is stored [inputs, outputs], if its factors are of that parameter.
  func turned(as kind: ModuleShape.Kind) -> AdapterFile.AdaptedModule {
    guard isParameter, !isOfStack, !shape.isTurned, let outputs = shape.outputs, let input = shape.inputs else { return self }
    var own = self
    own.turn(ModuleShape(kind, input: [outputs], outputs: input, rank: shape.rank, settings: shape.settings))
    return own
  }
}

extension AdapterFile {
  /// Throws for factors of parameters, whose modules only a base shows.
  ///
  /// - Parameter purpose: what cannot be done with them
  func checkHasNoParameters(_ purpose: MessageText) throws {
    guard let one = modules.first(where: \.isParameter) else { return }
    throw NibbleError.usage(
      "\(path: path) has factors of parameters (\(quoted("target_parameters"))), \(subject: one.path) the first, which \(purpose); merge it instead")
  }
}
