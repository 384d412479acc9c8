import NibbleAdapters
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("Adapters that bring more than factors")
struct FittedBaseTests {
  let folder = TemporaryFolder()

  func base(tied: Bool = false) throws -> Checkpoint {
    var model = SafetensorsBuilder()
    model.add(random: "model.embed_tokens.weight", [10, 8])
    model.add(random: "model.layers.0.self_attn.q_proj.weight", [8, 8])
    if !tied { model.add(random: "lm_head.weight", [10, 8]) }
    _ = try folder.write("base/model.safetensors", model.bytes)
    _ = try folder.write(
      "base/config.json",
      #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 10, "tie_word_embeddings": \#(tied)}"#)
    return try Checkpoint.open(folder.file("base"))
  }

  func adapter(_ settings: String, _ fill: (inout SafetensorsBuilder) -> Void) throws -> AdapterFile {
    var tensors = SafetensorsBuilder()
    let query = "base_model.model.model.layers.0.self_attn.q_proj."
    tensors.add(random: query + "lora_A.weight", [2, 8])
    tensors.add(random: query + "lora_B.weight", [8, 2])
    fill(&tensors)
    _ = try folder.write("adapter/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 2 \#(settings)}"#)
    return try AdapterFile.open(folder.file("adapter"))
  }

  func merge(_ base: Checkpoint, _ adapter: AdapterFile) throws -> (StreamReport, Checkpoint) {
    var spec = try OutputSpec(path: folder.file("out"), format: nil, default: .safetensors)
    spec.force = true
    let report = try StreamJob.merge(base, MergeOptions([.init(adapter)]), to: spec).run()
    return (report, try Checkpoint.open(folder.file("out")))
  }

  func rows(_ count: Int, _ width: Int = 8) -> (inout SafetensorsBuilder) -> Void {
    {
      $0.add(
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", [count, width],
        (0..<count * width).map(Float.init))
    }
  }

  @Test("rows of tokens take the place of the base's, and no others change")
  func tokenRows() throws {
    let base = try base()
    let (_, merged) = try merge(base, adapter(#", "trainable_token_indices": [9, 2]"#, rows(2)))
    let name = ByteName("model.embed_tokens.weight")
    let before = try values(#require(base.tensor(name))), after = try values(#require(merged.tensor(name)))
    for token in 0..<10 {
      for column in 0..<8 {
        let expected = token == 9 ? Float(column) : token == 2 ? Float(8 + column) : before[token * 8 + column]
        #expect(abs(after[token * 8 + column] - expected) < 1e-6)
      }
    }
    #expect(
      try StreamJob.merge(base, MergeOptions([]), to: OutputSpec(path: "x", format: nil, default: .safetensors)).items.count == 3)
  }

  @Test(
    "rows that do not fit are refused",
    arguments: [
      ("[9, 10]", 2, 8), ("[1]", 2, 8), ("[1, 1]", 2, 8), ("[1, -1]", 2, 8), ("[1, 2]", 2, 7), ("[]", 2, 8), ("\"x\"", 2, 8),
      (#"{"embed_tokens": [1, 2], "lm_head": [3]}"#, 2, 8), (#"{"other": [1, 2]}"#, 2, 8),
    ])
  func badRows(_ indices: String, _ count: Int, _ width: Int) throws {
    let base = try base()
    let error = #expect(throws: NibbleError.self) {
      try merge(base, adapter(#", "trainable_token_indices": \#(indices)"#, rows(count, width)))
    }
    #expect(error?.kind == .badInput || error?.kind == .adapterMismatch)
    #expect(PathKind(folder.file("out")) == .nothing)
  }

  @Test("a vocabulary is resized everywhere or not at all", arguments: [true, false])
  func resized(_ tied: Bool) throws {
    let base = try base(tied: tied)
    func resize(_ head: Int?) throws -> AdapterFile {
      try adapter("") {
        $0.add(random: "base_model.model.model.embed_tokens.weight", [12, 8])
        if let head {
          let own = $0.tensors[2]
          $0.add("base_model.model.lm_head.weight", "F32", [head, 8], Array(own.data.prefix(head * 32)))
        }
      }
    }
    let (report, merged) = try merge(base, resize(12))
    #expect(merged.config?["vocab_size"]?.int == 12)
    #expect(merged.tensor(ByteName("model.embed_tokens.weight"))?.shape == [12, 8])
    #expect((merged.tensor(ByteName("lm_head.weight")) == nil) == tied)
    #expect(try report.sourceIdentity == base.hash())
    if !tied {
      let error = #expect(throws: NibbleError.self) { try merge(base, resize(nil)) }
      #expect(error?.kind == .adapterMismatch)
    }
    let error = #expect(throws: NibbleError.self) { try merge(base, resize(11)) }
    #expect(error?.kind == .adapterMismatch)
  }

  @Test("a head the base lacks is added, a stranger is not")
  func heads() throws {
    let base = try base()
    let head = try adapter(#", "task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]"#) {
      $0.add(random: "base_model.model.score.weight", [3, 8])
    }
    let (report, merged) = try merge(base, head)
    #expect(merged.config?["architectures"]?.array?.first?.string == "LlamaForSequenceClassification")
    #expect(merged.config?["id2label"]?.members?.count == 3)
    #expect(merged.tensor(ByteName("score.weight"))?.shape == [3, 8])
    #expect(try report.sourceIdentity == base.hash())
    let stranger = try adapter("") { $0.add(random: "base_model.model.model.strange.weight", [3, 8]) }
    let error = #expect(throws: NibbleError.self) { try merge(base, stranger) }
    #expect(error?.kind == .adapterMismatch && error?.message.contains("1 of its 2") == true)
  }
}
