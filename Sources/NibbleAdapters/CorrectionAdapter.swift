import NibbleCore
import NibbleFormats

extension AdapterFolder {
  /// The factors of a module, found elsewhere.
  package struct Factors {
    /// The module, as the base names it.
    package var module: String
    /// [rank, inputs]
    package var a: [Float]
    /// [outputs, rank]
    package var b: [Float]
    package var rank: Int

    package init(module: String, a: [Float], b: [Float], rank: Int) {
      (self.module, self.a, self.b, self.rank) = (module, a, b, rank)
    }
  }

  /// A plain LoRA adapter of linear layers of `base`, scale 1.
  ///
  /// - Throws: what hashing a base without an identity of its own throws
  package init(_ factors: [Factors], of base: Checkpoint, threads: Int) throws {
    let modules = factors.map { one in
      FactoredModule(
        path: one.module, method: LoRA.self,
        ModuleShape(.linear, input: [one.a.count / max(one.rank, 1)], outputs: one.b.count / max(one.rank, 1)),
        factors: LowRankFactors(a: one.a, b: one.b, rank: one.rank, scale: 1))
    }
    let name = base.nameForAdapters
    let all = base.tensors.map(\.name.text).compactMap { name in name.lastIndex(of: ".").map { String(name[..<$0]) } }
    let kind = base.config?["architectures"]?.array?.first?.string ?? ""
    let isConv1D = factors.contains { base.family?.isConv1D($0.module + ".weight") ?? false }
    let config: JSON = [
      "peft_type": JSON(LoRA.kind), "task_type": kind.contains("CausalLM") || kind.contains("LMHead") ? "CAUSAL_LM" : .null,
      "base_model_name_or_path": JSON(name.name), "revision": JSON(name.revision), "r": 1, "lora_alpha": 1, "lora_dropout": JSON(0.0),
      "use_rslora": .bool(false), "use_dora": .bool(false), "target_modules": JSON(ShortTargets.names(factors.map(\.module), among: all)),
      "modules_to_save": .null, "rank_pattern": .object([]), "alpha_pattern": .object([]), "bias": "none",
      "fan_in_fan_out": .bool(isConv1D), "init_lora_weights": .bool(true), "inference_mode": .bool(true),
    ]
    let identity = try base.claimedIdentity ?? base.hash(threads: threads)
    var binding = AdapterBinding(to: base, identity: identity)
    // The model it was packed from needs no correction.
    binding.source = nil
    self.init(modules, config: config, binding: binding)
  }
}
