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
    var contents = AdapterContents()
    contents.modules = factors.map { one in
      FactoredModule(
        path: one.module, method: LoRA.self,
        ModuleShape(.linear, input: [one.a.count / max(one.rank, 1)], outputs: one.b.count / max(one.rank, 1)),
        factors: LowRankFactors(a: one.a, b: one.b, rank: one.rank, scale: 1))
    }
    let kind = base.networkConfig?["architectures"]?.array?.first?.string ?? "", name = base.nameForAdapters
    contents.taskType = kind.contains("CausalLM") || kind.contains("LMHead") ? "CAUSAL_LM" : nil
    contents.baseName = name.name
    var binding = AdapterBinding(to: base, identity: try base.claimedIdentity ?? base.hash(threads: threads))
    // The model it was packed from needs no correction.
    binding.source = nil
    contents.binding = binding
    self = contents.folder(for: base)
    config = config.setting("revision", to: JSON(name.revision))
  }
}
