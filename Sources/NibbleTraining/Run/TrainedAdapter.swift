import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

extension Trained {
  /// What was trained, as PEFT stores it.
  ///
  /// - Parameters:
  ///   - start: the configuration of the adapter the run began with; nil for a new one
  ///   - binding: what it was trained on
  package func folder(_ options: AdapterOptions, start: JSON?, on model: Model, binding: AdapterBinding?) -> AdapterFolder {
    let tensors = tensors.flatMap { tensor in
      ([tensor.name] + tensor.otherNames).map { AdapterFolder.Tensor($0, tensor.shape, Array(tensor.values.values)) }
    }
    let own = start.map { $0.setting("lora_dropout", to: JSON(options.dropout)) } ?? config(options, model)
    return AdapterFolder(config: own, tensors: tensors, binding: binding)
  }

  private func config(_ options: AdapterOptions, _ model: Model) -> JSON {
    let kind = options.method.adapter
    let adapted = model.linears.filter { modules[$0.id] != nil }
    let heads = headModules(model)
    let isClassifier = !heads.isEmpty
    let whole = heads + wholePaths(model).filter { path in !heads.contains { path == $0 || path.hasPrefix($0 + ".") } }
    func pattern(_ path: String) -> String { path.replacing(".", with: "\\.") }
    let ranks = adapted.compactMap { layer in modules[layer.id].map { (layer, $0.rank) } }.filter { $0.1 != options.rank }
    let alphas = adapted.compactMap { layer -> (String, JSON)? in
      guard let own = modules[layer.id] else { return nil }
      let root = Double(own.rank)
      let alpha = (own.scale * (kind?.isRankStabilized == true ? root.squareRoot() : root) * 1e6).rounded() / 1e6
      return alpha == options.alpha ? nil : (pattern(model.path(ofModule: layer.name)), JSON(alpha))
    }
    let alpha = options.alpha == options.alpha.rounded() ? JSON(Int(options.alpha)) : JSON(options.alpha)
    let base = options.baseName.map { (name: $0.name, revision: $0.revision) } ?? model.checkpoint.nameForAdapters
    let paths = adapted.map { model.path(ofModule: $0.name) }
    let known = model.linears.map(\.name) + model.parameterNames.map { String($0[..<($0.lastIndex(of: ".") ?? $0.endIndex)]) }
    let names = model.tokenEmbedding == nil ? paths.sorted() : ShortTargets.names(paths, among: known.map { model.path(ofModule: $0) })
    // PEFT has no name for the task of models of images.
    let task: JSON = model.tokenEmbedding == nil ? .null : isClassifier ? "SEQ_CLS" : "CAUSAL_LM"
    let isFactored = kind?.method.hasScale ?? true
    let factors: [(String, JSON)] =
      !isFactored
      ? []
      : [
        ("r", JSON(options.rank)), ("lora_alpha", alpha), ("lora_dropout", JSON(options.dropout)),
        ("use_rslora", .bool(kind?.isRankStabilized == true)),
      ]
    let flags = kind?.method.flagMembers ?? LoRA.flagMembers
    let settings = (kind?.method.settings ?? []).flatMap { one -> [(String, JSON)] in
      let common = options.common(one)
      let others = adapted.compactMap { layer -> (String, JSON)? in
        guard let own = modules[layer.id]?.shape.settings[one.key], own != common else { return nil }
        return (pattern(model.path(ofModule: layer.name)), one.json(own))
      }
      let says = !(one.isImplied && common == one.standard)
      return (says ? common.map { [(one.key, one.json($0))] } ?? [] : []) + (others.isEmpty ? [] : [(one.patternKey, .object(others))])
    }
    let targets: [(String, JSON)] = [
      ("target_modules", JSON(names)),
      ("modules_to_save", whole.isEmpty ? .null : JSON(whole)),
    ]
    let patterns: [(String, JSON)] =
      !isFactored
      ? []
      : [
        ("rank_pattern", .object(ranks.map { (pattern(model.path(ofModule: $0.0.name)), JSON($0.1)) })),
        ("alpha_pattern", .object(alphas)),
      ]
    let config = JSON.object(
      [
        ("peft_type", JSON(kind?.method.kind ?? LoRA.kind)), ("task_type", task), ("base_model_name_or_path", JSON(base.name)),
        ("revision", JSON(base.revision)),
      ]
        + factors + flags + settings + targets + patterns + [
          ("bias", JSON(options.bias.rawValue)), ("fan_in_fan_out", .bool(adapted.contains(where: \.isConv1D))),
          ("init_lora_weights", .bool(true)), ("inference_mode", .bool(true)),
        ])
    if let table = model.tokenEmbedding, let own = rows[table.id] {
      return config.setting("trainable_token_indices", to: .object([(model.path(ofModule: table.name), JSON(own.tokens))]))
    }
    return options.keepsTied && model.tied != nil ? config.setting("ensure_weight_tying", to: true) : config
  }

  /// The modules of a classifier's head, each as large as it can be without a part of the body in it: PEFT wraps `classifier` as a
  /// whole, and has nothing to wrap in `bert` that it does not adapt.
  private func headModules(_ model: Model) -> [String] {
    guard case .classification(let head) = model.head else { return [] }
    let own = (head.dense + [head.output]).map { model.path(ofModule: $0.name) }
    let parameters = model.parameterNames.map { model.path(ofModule: String($0[..<($0.lastIndex(of: ".") ?? $0.endIndex)])) }
    let body = parameters.filter { !own.contains($0) }
    let modules = own.map { path in
      let parts = path.split(separator: ".")
      let parents = (1...max(parts.count, 1)).map { parts.prefix($0).joined(separator: ".") }
      return parents.first { parent in !body.contains { $0 == parent || $0.hasPrefix(parent + ".") } } ?? path
    }
    return Set(modules).sorted()
  }

  /// Whole paths: PEFT takes `norm` for the end of any module's name.
  private func wholePaths(_ model: Model) -> [String] {
    // Under this name PEFT gives the head what takes the embedding's place; it does not look for others.
    let follower = model.tied.flatMap { ModuleChoice.is($0.tokens.name, "embed_tokens") && matrices[$0.head.id] === matrices[$0.tokens.id] ? $0.head.id : nil }
    let ids = matrices.keys.filter { $0 != follower } + model.norms.map(\.weight.id).filter { vectors[$0] != nil }
    return ids.map { model.path(ofModule: String(model.parameterNames[$0].dropLast(".weight".count))) }.sorted()
  }
}
