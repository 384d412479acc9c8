import NibbleCore

/// Layers that transformers leaves as they are before it loads a bitsandbytes checkpoint. A packed weight of such a layer does not load.
struct SkippedModules {
  private var entries: Set<Substring>

  init(_ entries: [String]) { self.entries = Set(entries.map { $0[...] }) }

  /// An entry stands for the module of that name, for all below it, and for every module whose path ends with it, be it in the
  /// middle of a word: `classifier` covers `pre_classifier` too.
  func covers(_ module: String) -> Bool {
    let bytes = module.utf8
    for start in bytes.indices where entries.contains(module[start...]) { return true }
    return bytes.indices.contains { bytes[$0] == UInt8(ascii: ".") && entries.contains(module[..<$0]) }
  }

  /// The module that a weight belongs to.
  static func module(_ weight: String) -> String? {
    weight.hasSuffix(".weight") ? String(weight.dropLast(".weight".count)) : nil
  }

  mutating func add(_ module: String) { entries.insert(module[...]) }

  /// What transformers leaves alone whatever a configuration says: layers of classes of their own, which are no `nn.Linear` to it, and
  /// `_keep_in_fp32_modules`. By `model_type`; of transformers 5.23.
  static func always(_ modelType: String?) -> SkippedModules {
    switch modelType {
    case "falcon": SkippedModules(["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"])
    case "t5", "mt5", "umt5", "udop", "pop2piano": SkippedModules(["wo"])
    case "llama4", "llama4_text", "phimoe": SkippedModules(["router"])
    case "deepseek_v32", "glm_moe_dsa", "axk2", "mistral_large4": SkippedModules(["indexer.weights_proj"])
    case "deepseek_v4":
      SkippedModules(
        ["o_a_proj", "indexer.scorer.weights_proj"]
          + ["compressor", "compressor.indexer"].flatMap { [$0 + ".kv_proj", $0 + ".gate_proj"] })
    case "blip-2": SkippedModules(["qformer"])
    default: SkippedModules([])
    }
  }
}

extension BitsAndBytesFolder {
  /// Keeps what is packed by default and would not load packed: convolutions, layers that are never replaced, and layers that the entry of a kept one
  /// covers. A kept layer has an entry of its own, so it may cover others.
  func loadable(_ decisions: [PackingDecision], of source: Checkpoint) -> [PackingDecision] {
    var decisions = decisions
    let isBeyond = source.family?.isBeyondBitsAndBytes ?? { _ in false }
    for index in decisions.indices {
      let reason = decisions[index].reason
      let name = decisions[index].tensor.name.text
      guard reason == .convolution || reason == .family && isBeyond(name) || source.isInTorchAttention(name) else { continue }
      decisions[index].keep(.notReplaced)
    }
    // Of families nibble knows transformers has the rule itself: there is no list. It replaces none of Falcon's layers.
    let hasRule = source.family.map { $0.isInBitsAndBytes && $0.part == nil } ?? false
    guard source.config != nil, !hasRule else { return decisions }
    var settled = decisions
    var skipped = SkippedModules.always(source.modelType)
    let family = source.family, called = { (module: String) in family?.inModules(module) ?? module }
    for decision in decisions where !decision.isPacked { decision.module.map { skipped.add(called($0)) } }
    while let index = settled.firstIndex(where: { [.shape, .family].contains($0.reason) && $0.module.map { skipped.covers(called($0)) } == true }) {
      settled[index].keep(.notReplaced)
      settled[index].module.map { skipped.add(called($0)) }
    }
    return settled
  }

  /// Tells of packed weights that transformers does not load: a rule asked for them, or they were packed before.
  func warnings(_ job: StreamJob) -> [Warning] {
    guard !job.output.isSingleFile, config(job) != nil else { return [] }
    let targets = job.items.map(\.target)
    var skipped = SkippedModules.always(job.source.modelType)
    QuantizationConfig.skippedModules(targets, job.source.family)?.forEach { skipped.add($0) }
    let family = job.source.family, isBeyond = family?.isBeyondBitsAndBytes ?? { _ in false }
    let lost = targets.filter {
      $0.encoding.isPacked && ($0.module.map { skipped.covers(family?.inModules($0) ?? $0) } == true || isBeyond($0.name.text) || job.source.isInTorchAttention($0.name.text))
    }
    if job.source.family?.partsPackedExperts == true, targets.contains(where: { isBeyond($0.name.text) }) {
      return [
        .init(
          .compatibility,
          "\(path: job.output.path): transformers does not load the folder: beside packed layers it looks for experts one by one, and files stack them; nibble runs it")
      ]
    }
    guard let first = lost.first else { return [] }
    return [
      .init(
        .compatibility,
        "\(path: job.output.path): transformers does not load the folder: it does not replace the layers of \(lost.count) packed "
          + "weights, the first of which is \(subject: first.name.text); keep them, or write a block file")
    ]
  }
}

extension Checkpoint {
  /// Whether a weight belongs to PyTorch's own attention module, as SigLIP's pooling head has one: its output is of a class derived from `nn.Linear`.
  fileprivate func isInTorchAttention(_ weight: String) -> Bool {
    weight.hasSuffix(".out_proj.weight") && tensor(ByteName(weight.dropLast("out_proj.weight".count) + "in_proj_weight")) != nil
  }
}

extension TensorTarget {
  /// The layer whose weight this is, if it has two dimensions.
  var module: String? { shape.count == 2 ? SkippedModules.module(name.text) : nil }
}

extension PackingDecision {
  fileprivate var module: String? { tensor.logicalShape.count == 2 ? SkippedModules.module(tensor.name.text) : nil }

  fileprivate var isPacked: Bool {
    if case .codec = choice { true } else { tensor.isPacked }
  }

  fileprivate mutating func keep(_ reason: PackingReason) {
    self = PackingDecision(tensor: tensor, choice: .keep, blockSize: blockSize, reason: reason)
  }
}
