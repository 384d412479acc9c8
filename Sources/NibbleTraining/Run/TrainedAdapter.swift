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
  ///   - rule: what the method did beside gradients
  package func folder(
    _ options: AdapterOptions, start: JSON?, on model: Model, binding: AdapterBinding?, rule: (any TrainingRule)? = nil
  ) -> AdapterFolder {
    let stacks = start == nil ? stackedFactors(of: model) ?? [] : []
    let biases = start == nil ? stackedBiases(of: model, beside: stacks) : (parts: [], tensors: [])
    let stacked = Set((stacks.flatMap(\.layers).compactMap { modules[$0] }.flatMap(\.tensors) + biases.parts).map(ObjectIdentifier.init))
    let tensors = stored.filter { $0.isStored && !stacked.contains(ObjectIdentifier($0)) }.flatMap { tensor in
      let values = Array(tensor.values.values)
      let (shape, own) = rule?.stored(tensor.name, tensor.shape, values) ?? (tensor.shape, values)
      return ([tensor.name] + tensor.otherNames).map { AdapterFolder.Tensor($0, shape, own) }
    }
    let own = start.map { json in
      (try? AdapterConfig(json, place: ""))?.method.dropoutKey.map { json.setting($0, to: JSON(options.dropout)) } ?? json
    } ?? config(options, model, stacks)
    let config = (rule?.members ?? []).reduce(own) { $0.setting($1.0, to: $1.1) }
    return AdapterFolder(config: config, tensors: tensors + stacks.flatMap(\.tensors) + biases.tensors, binding: binding)
  }

  private func config(_ given: AdapterOptions, _ model: Model, _ stacks: [StackedFactors]) -> JSON {
    var options = given
    let kind = options.method.adapter, trained = kind?.method ?? LoRA.self, method = trained.storedAs
    /// Of the factors that are stored.
    func rank(_ module: ModuleShape) -> Int { method == trained ? module.rank : trained.pairRank(module) }
    // Factors and those they began with, side by side.
    let isDoubled = options.start.holdsWeight && modules.values.contains { $0.kept > 0 }
    let times = isDoubled ? 2 : rank(ModuleShape(rank: options.rank, settings: options.settings)) / max(options.rank, 1)
    if times > 1 {
      options.rank *= times
      options.alpha *= kind?.isRankStabilized == true ? Double(times).squareRoot() : Double(times)
    }
    let stacked = Set(stacks.flatMap(\.layers))
    let adapted =
      model.linears.filter { !stacked.contains($0.id) }.compactMap { layer in modules[layer.id].map { (name: layer.name, module: $0) } }
      + model.embeddings.compactMap { table in tables[table.id].map { (name: table.name, module: $0) } }
    let heads = headModules(model)
    let isClassifier = !heads.isEmpty
    let whole = heads + wholePaths(model).filter { path in !heads.contains { path == $0 || path.hasPrefix($0 + ".") } }
    func pattern(_ path: String) -> String { path.replacing(".", with: "\\.") }
    let ranks = adapted.map { ($0, rank($0.module.shape)) }.filter { $0.1 != options.rank }
    let isStabilized = kind?.isRankStabilized == true
    let alphas = adapted.compactMap { one -> (String, JSON)? in
      guard method.hasPatterns else { return nil }
      let root = Double(rank(one.module.shape))
      let alpha = (one.module.scale * (isStabilized ? root.squareRoot() : root) * 1e6).rounded() / 1e6
      return alpha == options.alpha ? nil : (pattern(model.path(ofModule: one.name)), JSON(alpha))
    }
    let stackRanks = stacks.filter { $0.rank != options.rank }.map { (pattern($0.parameter), JSON($0.rank)) }
    let stackAlphas = stacks.compactMap { stack -> (String, JSON)? in
      let root = Double(stack.rank), alpha = (stack.scale * (isStabilized ? root.squareRoot() : root) * 1e6).rounded() / 1e6
      return alpha == options.alpha ? nil : (pattern(stack.parameter), JSON(alpha))
    }
    let alpha = options.alpha == options.alpha.rounded() ? JSON(Int(options.alpha)) : JSON(options.alpha)
    let base = options.baseName.map { (name: $0.name, revision: $0.revision) } ?? model.checkpoint.nameForAdapters
    let paths = adapted.map { model.path(ofModule: $0.name) }
    let known = model.linears.map(\.name) + model.parameterNames.map { String($0[..<($0.lastIndex(of: ".") ?? $0.endIndex)]) } + model.otherModules
    let excluded = options.excludedPaths(kind?.method ?? LoRA.self, on: model), open = known.filter { !excluded.contains($0) }
    func short(_ paths: [String], among known: [String]) -> [String] {
      model.tokenEmbedding == nil ? paths.sorted() : ShortTargets.names(paths, among: known.map { model.path(ofModule: $0) })
    }
    // Modules that a setting names are named by themselves: PEFT looks for their names among the targets.
    let groups = Dictionary(grouping: adapted) { one in
      method.settings.filter { $0.namesModules && one.module.shape.settings[$0.key] == 1 }.map(\.key)
    }.mapValues { short($0.map { model.path(ofModule: $0.name) }, among: open) }
    let names = groups.count < 2 ? short(paths, among: open) : Set(groups.values.joined()).sorted()
    // PEFT has no name for the task of models of images, nor for that of masked tokens.
    let task: JSON =
      model.tokenEmbedding == nil || model.fillsMasks
      ? .null : model.tokenClassCount != nil ? "TOKEN_CLS" : model.marksSpans ? "QUESTION_ANS" : isClassifier ? "SEQ_CLS" : model.answersPrompts ? "SEQ_2_SEQ_LM" : "CAUSAL_LM"
    // PEFT does not load dropout beside factors of parameters.
    let dropout = stacks.isEmpty ? options.dropout : 0
    let factors: [(String, JSON)] =
      (method.rankKey.map { [($0, JSON(options.rank))] } ?? []) + (method.alphaKey.map { [($0, alpha)] } ?? [])
      + (method.dropoutKey.map { [($0, JSON(dropout))] } ?? [])
      + (method.keys.contains("use_rslora") ? [("use_rslora", .bool(isStabilized))] : [])
    let flags = method.flagMembers + options.flags.sorted().map { ($0, .bool(true)) }
    let settings = method.settings.flatMap { one -> [(String, JSON)] in
      if one.namesModules {
        return [(one.key, JSON(Set(groups.filter { $0.key.contains(one.key) }.values.joined()).sorted()))]
      }
      let common = options.common(one)
      let others = adapted.compactMap { place -> (String, JSON)? in
        guard options.settingPatterns.contains(where: { $0.key == one.key }), let own = place.module.shape.settings[one.key], own != common
        else { return nil }
        return (pattern(model.path(ofModule: place.name)), one.json(own))
      }
      let says = !(one.isImplied && common == one.standard)
      return (says ? common.map { [(one.key, one.json($0))] } ?? [] : []) + (others.isEmpty ? [] : [(one.patternKey, .object(others))])
    }
    let targets: [(String, JSON)] = [
      ("target_modules", JSON(names)),
      ("modules_to_save", whole.isEmpty ? .null : JSON(whole)),
    ] + (excluded.isEmpty ? [] : [("exclude_modules", JSON(short(excluded.map { model.path(ofModule: $0) }, among: known)))])
    let parameters: [(String, JSON)] = stacks.isEmpty ? [] : [("target_parameters", JSON(stacks.map(\.parameter).sorted()))]
    let repeated: [(String, JSON)] = options.layerReplication.isEmpty ? [] : [("layer_replication", options.replicationJSON)]
    let patterns: [(String, JSON)] =
      !method.hasPatterns
      ? []
      : [
        ("rank_pattern", .object(ranks.map { (pattern(model.path(ofModule: $0.0.name)), JSON($0.1)) } + stackRanks)),
        ("alpha_pattern", .object(alphas + stackAlphas)),
      ]
    let isConv1D = model.linears.contains { modules[$0.id] != nil && !stacked.contains($0.id) && $0.isConv1D }, isCommon = method.keys.contains("init_lora_weights")
    let bias = options.bias == .loraOnly ? method.onlyBias : options.bias.rawValue
    let start = ["init_lora_weights", "init_ia3_weights", "init_weights"].first { method.keys.contains($0) }
    let last: [(String, JSON)] =
      (isCommon || options.bias != .none ? [("bias", JSON(bias))] : [])
      + (isCommon || isConv1D ? [("fan_in_fan_out", .bool(isConv1D))] : [])
      + (start.map { [($0, .bool(true))] } ?? []) + [("inference_mode", .bool(true))]
    let config = JSON.object(
      [
        ("peft_type", JSON(method.kind)), ("task_type", task), ("base_model_name_or_path", JSON(base.name)),
        ("revision", JSON(base.revision)),
      ] + factors + flags + settings + targets + parameters + repeated + patterns + last)
    let rows = namedRows(model)
    if !rows.isEmpty { return config.setting("trainable_token_indices", to: .object(rows.map { ($0.path, JSON($0.tokens)) })) }
    return options.keepsTied && model.tied != nil ? config.setting("ensure_weight_tying", to: true) : config
  }

  /// The modules of a classifier's head, each as large as it can be without a part of the body in it: PEFT wraps `classifier` as a
  /// whole, and has nothing to wrap in `bert` that it does not adapt.
  private func headModules(_ model: Model) -> [String] {
    guard model.head.isOfTask else { return [] }
    let own = model.head.layers.filter { self.modules[$0.id] == nil }.map { model.path(ofModule: $0.name) }
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
    let scorer = model.embeddingScorer?.head.id
    let ids = matrices.keys.filter { $0 != follower && $0 != scorer } + model.norms.map(\.weight.id).filter { vectors[$0] != nil }
    return ids.map { model.path(ofModule: String(model.parameterNames[$0].dropLast(".weight".count))) }.sorted()
  }
}
