import NibbleAdapters
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("Adapters of models whose output head shares the embedding's weight")
struct TiedParametersTests {
  let folder = TemporaryFolder()

  /// The embedding, the layer adapted beside it, and what the file leaves out, as transformers has them.
  struct Family: CustomTestStringConvertible, Sendable {
    let type: String
    let architecture: String
    let embedding: String
    let layer: String
    let left: [String]
    var bias: String?
    var saysSo = true
    var testDescription: String { architecture }
    var isKnownToPEFT: Bool { embedding.hasSuffix("embed_tokens") }
  }

  static let families = [
    Family(
      type: "opt", architecture: "OPTForCausalLM", embedding: "model.decoder.embed_tokens",
      layer: "model.decoder.layers.0.self_attn.q_proj", left: ["lm_head.weight"]),
    Family(
      type: "bloom", architecture: "BloomForCausalLM", embedding: "transformer.word_embeddings",
      layer: "transformer.h.0.mlp.dense_h_to_4h", left: ["lm_head.weight"], saysSo: false),
    Family(
      type: "gpt_neox", architecture: "GPTNeoXForCausalLM", embedding: "gpt_neox.embed_in",
      layer: "gpt_neox.layers.0.attention.dense", left: ["lm_head.weight"]),
    Family(
      type: "gemma3_text", architecture: "Gemma3ForCausalLM", embedding: "model.embed_tokens",
      layer: "model.layers.0.self_attn.q_proj", left: ["lm_head.weight"], saysSo: false),
    Family(
      type: "roberta", architecture: "RobertaForMaskedLM", embedding: "roberta.embeddings.word_embeddings",
      layer: "roberta.encoder.layer.0.attention.self.query", left: ["lm_head.decoder.weight", "lm_head.decoder.bias"],
      bias: "lm_head.bias"),
    Family(
      type: "distilbert", architecture: "DistilBertForMaskedLM", embedding: "distilbert.embeddings.word_embeddings",
      layer: "distilbert.transformer.layer.0.attention.q_lin", left: ["vocab_projector.weight"]),
    Family(
      type: "bart", architecture: "BartForConditionalGeneration", embedding: "model.shared",
      layer: "model.encoder.layers.0.self_attn.q_proj",
      left: ["lm_head.weight", "model.decoder.embed_tokens.weight", "model.encoder.embed_tokens.weight"]),
    Family(
      type: "gemma", architecture: "GemmaForCausalLM", embedding: "model.embed_tokens", layer: "model.layers.0.self_attn.q_proj",
      left: ["lm_head.weight"], saysSo: false),
    Family(
      type: "smollm3", architecture: "SmolLM3ForCausalLM", embedding: "model.embed_tokens", layer: "model.layers.0.self_attn.q_proj",
      left: ["lm_head.weight"], saysSo: false),
  ]

  func base(_ family: Family) throws -> Checkpoint {
    var model = SafetensorsBuilder()
    model.add(random: family.embedding + ".weight", [10, 8])
    model.add(random: family.layer + ".weight", [8, 8])
    if let bias = family.bias { model.add(random: bias, [10]) }
    _ = try folder.write("base/model.safetensors", model.bytes)
    let says = family.saysSo ? #", "tie_word_embeddings": true"# : ""
    _ = try folder.write(
      "base/config.json", #"{"model_type": "\#(family.type)", "architectures": ["\#(family.architecture)"]\#(says)}"#)
    return try Checkpoint.open(folder.file("base"))
  }

  func adapter(_ family: Family, _ settings: String = "", _ fill: (inout SafetensorsBuilder) -> Void) throws -> AdapterFile {
    var tensors = SafetensorsBuilder()
    tensors.add(random: "base_model.model.\(family.layer).lora_A.weight", [2, 8])
    tensors.add(random: "base_model.model.\(family.layer).lora_B.weight", [8, 2])
    fill(&tensors)
    _ = try folder.write("adapter/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 2 \#(settings)}"#)
    return try AdapterFile.open(folder.file("adapter"))
  }

  func merge(_ base: Checkpoint, _ adapter: AdapterFile) throws -> Checkpoint {
    var spec = try OutputSpec(path: folder.file("out"), format: nil, default: .safetensors)
    spec.force = true
    _ = try StreamJob.merge(base, MergeOptions([.init(adapter)]), to: spec, check: MergeCheck()).run()
    return try Checkpoint.open(folder.file("out"))
  }

  @Test("what changes only the embedding leaves the head as it was", arguments: families, [true, false])
  func embedding(_ family: Family, _ isWhole: Bool) throws {
    let base = try base(family)
    let path = "base_model.model.\(family.embedding)."
    let adapter = try adapter(family, isWhole ? #", "modules_to_save": ["\#(family.embedding)"]"# : "") {
      if isWhole {
        $0.add(random: path + "weight", [10, 8], seed: 7)
      } else {
        $0.add(random: path + "lora_embedding_A", [2, 10])
        $0.add(random: path + "lora_embedding_B", [8, 2])
      }
    }
    let merged = try merge(base, adapter)
    #expect(merged.config?["tie_word_embeddings"]?.bool == false)
    for name in family.left {
      let source = name.hasSuffix(".bias") ? try #require(family.bias) : family.embedding + ".weight"
      let before = try values(#require(base.tensor(ByteName(source))))
      #expect(try values(#require(merged.tensor(ByteName(name)))) == before, "\(name)")
    }
    let name = ByteName(family.embedding + ".weight")
    #expect(try values(#require(merged.tensor(name))) != values(#require(base.tensor(name))))
  }

  @Test("what holds for all of them leaves them one", arguments: families)
  func together(_ family: Family) throws {
    let base = try base(family)
    let path = "base_model.model.\(family.embedding)."
    let rows = try merge(
      base,
      adapter(family, #", "trainable_token_indices": [3]"#) {
        $0.add(random: path + "token_adapter.trainable_tokens_delta", [1, 8])
      })
    #expect(rows.tensors.count == base.tensors.count)
    // PEFT keeps a module trained whole and the head together, on request, only where it knows the embedding's name; it writes both.
    let head = try #require(family.left.first)
    let whole = try merge(
      base,
      adapter(family, #", "modules_to_save": ["\#(family.embedding)"], "ensure_weight_tying": true"#) {
        $0.add(path + "weight", [10, 8], (0..<80).map(Float.init))
        if family.isKnownToPEFT { $0.add("base_model.model." + head, [10, 8], (0..<80).map(Float.init)) }
      })
    #expect(whole.tensors.count == base.tensors.count + (family.isKnownToPEFT ? 0 : family.left.count))
    #expect((whole.config == base.config) == family.isKnownToPEFT)
  }

  @Test("a head that is adapted without the embedding leaves the embedding as it was; rows of tokens reach both", arguments: families.prefix(5))
  func head(_ family: Family) throws {
    let base = try base(family)
    let head = try #require(family.left.first)
    let name = ByteName(family.embedding + ".weight")
    func merged(hasRows: Bool) throws -> (embedding: [Float], head: [Float]) {
      let path = "base_model.model.\(head.dropLast(".weight".count))."
      let adapter = try adapter(family, hasRows ? #", "trainable_token_indices": {"\#(family.embedding)": [3]}"# : "") {
        $0.add(random: path + "lora_A.weight", [2, 8])
        $0.add(random: path + "lora_B.weight", [10, 2])
        guard hasRows else { return }
        $0.add("base_model.model.\(family.embedding).token_adapter.trainable_tokens_delta", [1, 8], (0..<8).map(Float.init))
      }
      let merged = try merge(base, adapter)
      return try (values(#require(merged.tensor(name))), values(#require(merged.tensor(ByteName(head)))))
    }
    let before = try values(#require(base.tensor(name)))
    let single = try merged(hasRows: false)
    #expect(single.embedding == before)
    #expect(single.head != before)
    // The trained row is the weight under the factors, in the head as in the embedding.
    let both = try merged(hasRows: true)
    for index in before.indices {
      let isRow = index / 8 == 3
      // A row is brought to its value by adding the difference, which rounds once.
      let row = isRow ? Float(index % 8) : before[index]
      #expect(abs(both.embedding[index] - row) <= (isRow ? 2e-6 * max(1, row) : 0))
      let wanted = isRow ? Float(index % 8) + single.head[index] - before[index] : single.head[index]
      #expect(abs(both.head[index] - wanted) <= 2e-6 * max(1, abs(wanted)))
    }
  }

  @Test("rows of tokens beside DoRA of the head are refused")
  func rowsBesideMagnitudes() throws {
    let family = Self.families[3]
    let base = try base(family)
    let adapter = try adapter(family, #", "use_dora": true, "trainable_token_indices": [3]"#) {
      $0.add(random: "base_model.model.\(family.layer).lora_magnitude_vector", [8])
      $0.add(random: "base_model.model.lm_head.lora_A.weight", [2, 8])
      $0.add(random: "base_model.model.lm_head.lora_B.weight", [10, 2])
      $0.add(random: "base_model.model.lm_head.lora_magnitude_vector", [10])
      $0.add(random: "base_model.model.\(family.embedding).token_adapter.trainable_tokens_delta", [1, 8])
    }
    #expect(throws: NibbleError.self) { try merge(base, adapter) }
  }

  @Test("a weight that PEFT stores under the factors of one is that of both, as PEFT reads it", arguments: [true, false])
  func sharedBase(_ isOfHead: Bool) throws {
    let family = Self.families[3]
    let base = try base(family)
    let other = (0..<80).map { Float($0) / 16 }
    let merged = try merge(
      base,
      adapter(family) {
        let path = "base_model.model." + (isOfHead ? "lm_head." : family.embedding + ".")
        $0.add(random: path + (isOfHead ? "lora_A.weight" : "lora_embedding_A"), isOfHead ? [2, 8] : [2, 10])
        $0.add(random: path + (isOfHead ? "lora_B.weight" : "lora_embedding_B"), isOfHead ? [10, 2] : [8, 2])
        $0.add(path + "base_layer.weight", [10, 8], other)
      })
    let (embedding, head) = try (
      values(#require(merged.tensor(ByteName(family.embedding + ".weight")))), values(#require(merged.tensor("lm_head.weight")))
    )
    #expect((isOfHead ? embedding : head) == other)
    #expect((isOfHead ? head : embedding) != other)
  }

  @Test("models that no configuration unties, and ties that are not known, are refused by name", arguments: [
    ("t5", "T5ForConditionalGeneration", "shared"), ("own", "OwnForCausalLM", "model.embed_tokens"),
  ])
  func refused(_ type: String, _ architecture: String, _ embedding: String) throws {
    let family = Family(
      type: type, architecture: architecture, embedding: embedding, layer: "encoder.block.0.layer.0.SelfAttention.q", left: [])
    let base = try base(family)
    let adapter = try adapter(family, #", "modules_to_save": ["\#(embedding)"]"#) {
      $0.add(random: "base_model.model.\(embedding).weight", [10, 8], seed: 7)
    }
    let error = #expect(throws: NibbleError.self) { try merge(base, adapter) }
    #expect(error?.kind == .badInput)
    #expect(error?.message.contains(embedding) == true)
    #expect(PathKind(folder.file("out")) == .nothing)
    #expect(try merge(base, self.adapter(family) { _ in }).tensors.count == base.tensors.count)
  }

  @Test("a weight that PEFT writes beside an adapted embedding and that is the base's own is no replacement", arguments: [0.5, 1])
  func unchanged(_ weight: Double) throws {
    let family = Self.families[0]
    let base = try base(family)
    let own = try values(#require(base.tensor(ByteName(family.embedding + ".weight"))))
    func merged(_ values: [Float]) throws {
      let adapter = try adapter(family) {
        let path = "base_model.model.\(family.embedding)."
        $0.add(random: path + "lora_embedding_A", [2, 10])
        $0.add(random: path + "lora_embedding_B", [8, 2])
        $0.add(path + "base_layer.weight", [10, 8], values)
      }
      var spec = try OutputSpec(path: folder.file("out"), format: nil, default: .safetensors)
      spec.force = true
      let report = try StreamJob.merge(base, MergeOptions([.init(adapter, weight: weight)]), to: spec).run()
      #expect(report.replaced.isEmpty == (values == own))
    }
    try merged(own)
    let other = own.enumerated().map { $0.offset == 5 ? $0.element.nextUp : $0.element }
    if weight == 1 {
      try merged(other)
    } else {
      #expect(throws: NibbleError.self) { try merged(other) }
    }
  }
}
