import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import TestSupport
import Testing

@Suite("Adapters under a running model")
struct AdapterTests {
  static let cases: [(name: String, base: String, reference: String)] = [
    ("dec_all_linear_patterns", "llama", "decoder_base"), ("dec_dora", "llama", "decoder_base"),
    ("dec_embedding", "llama", "decoder_base"), ("dec_layers_to_transform", "llama", "decoder_base"),
    ("dec_lora_qv", "llama", "decoder_base"), ("dec_regex_layers", "llama", "decoder_base"),
    ("dec_rslora", "llama", "decoder_base"), ("gpt2_bias_all", "gpt2", "gpt2_base"), ("gpt2_c_attn", "gpt2", "gpt2_base"),
    ("gpt2_dora", "gpt2", "gpt2_base"), ("gpt2_lora_bias", "gpt2", "gpt2_base"),
    ("roberta_bias_lora_only", "roberta", "roberta_base"), ("roberta_cls", "roberta", "roberta_base"),
  ]

  static func expected(_ name: String) throws -> [Float] {
    let file = try TensorFile(fixture("adapters/logits.safetensors"))
    return try file.floats(#require(file.tensor(name)))
  }

  static func adapter(_ name: String, _ model: Model) throws -> ActiveAdapter {
    ActiveAdapter(try model.attach(AdapterFile.open(fixture("adapters/" + name)), name: name))
  }

  @Test("give what PEFT gives", arguments: cases)
  func parity(name: String, base: String, reference: String) throws {
    let model = try model(base)
    let scores = try model.scores(Reference(reference).runs([try Self.adapter(name, model)]))
    #expect(greatestDifference(scores, try Self.expected(name)) <= 5e-5)
  }

  @Test("on rows of one batch are each row's own")
  func perRow() throws {
    let model = try model("llama")
    let names = ["dec_dora", "dec_all_linear_patterns", "dec_embedding", nil, "dec_rslora"]
    let runs = try names.enumerated().map { row, name in
      TokenRun((0..<4 + row).map { $0 * 11 + row }, adapters: try name.map { [try Self.adapter($0, model)] } ?? [])
    }
    let together = try model.scores(runs)
    #expect(greatestDifference(together, try runs.flatMap { try model.scores([$0]) }) <= 2e-5)
  }

  @Test(
    "whole replaced heads and biases are each row's own, too", arguments: [("gpt2", "gpt2_bias_all"), ("roberta", "roberta_cls")])
  func replacedPerRow(base: String, name: String) throws {
    let model = try model(base)
    let adapter = try Self.adapter(name, model)
    let runs = [TokenRun([5, 6, 7]), TokenRun([8, 9], adapters: [adapter]), TokenRun([5, 6, 7], adapters: [adapter])]
    let together = try model.scores(runs)
    #expect(greatestDifference(together, try runs.flatMap { try model.scores([$0]) }) <= 2e-5)
  }

  @Test("several at once add up by weight")
  func weights() throws {
    let model = try model("llama")
    let run = TokenRun([1, 2, 3])
    let whole = try Self.adapter("dec_layers_to_transform", model)
    func scores(_ weights: [Float]) throws -> [Float] {
      var run = run
      run.adapters = weights.map { ActiveAdapter(whole.adapter, weight: $0) }
      return try model.scores([run])
    }
    #expect(greatestDifference(try scores([0.5, 0.5]), try scores([1])) <= 1e-5)
    #expect(greatestDifference(try scores([0]), try scores([])) <= 1e-6)
    #expect(greatestDifference(try scores([1, -1]), try scores([])) <= 1e-5)
  }

  @Test("switched between tokens act from there on")
  func switching() throws {
    let model = try model("llama")
    let adapter = try Self.adapter("dec_lora_qv", model)
    let cache = try model.tokens(for: "a test").cache()
    let plain = try model.scores([TokenRun([1, 2, 3], cache: cache)])
    #expect(plain == (try model.scores([TokenRun([1, 2, 3])])))
    let switched = try model.scores([TokenRun([4], cache: cache, adapters: [adapter])])
    #expect(greatestDifference(switched, Array(try model.scores([TokenRun([1, 2, 3, 4])]).suffix(256))) > 1e-3)
  }

  @Test("that fail to attach change nothing")
  func allOrNothing() throws {
    let model = try model("llama")
    let set = AdapterSet(model)
    try set.attach(fixture("adapters/dec_lora_qv"), as: "a")
    let error = #expect(throws: NibbleError.self) { try set.attach(fixture("adapters/gpt2_c_attn"), as: "b") }
    #expect(error?.kind == .adapterMismatch)
    #expect(set.names == ["a"])
    #expect(throws: NibbleError.self) { try set.attach(fixture("adapters/dec_rslora"), as: "a") }
    #expect(throws: NibbleError.self) { try set.selection([("nobody", 1)]) }
    try set.detach("a")
    #expect(set.names.isEmpty)
  }

  @Test("two that replace the same parameter are not used together")
  func hiding() throws {
    let set = AdapterSet(try model("roberta"))
    try set.attach(fixture("adapters/roberta_cls"), as: "a")
    try set.attach(fixture("adapters/roberta_bias_lora_only"), as: "b")
    #expect(throws: NibbleError.self) { try set.selection([("a", 1), ("b", 1)]) }
    #expect(throws: NibbleError.self) { try set.selection([("a", 0.5)]) }
  }

  /// Configurations that ask for something else, and what the message must name.
  static let refused: [(String, String, NibbleError.Kind)] = [
    (#""r": 5"#, "rank", .adapterMismatch), (#""peft_type": "PREFIX_TUNING""#, "PREFIX_TUNING", .badInput),
    (#""use_dora": true"#, "lora_magnitude_vector", .adapterMismatch), (#""lora_bias": true"#, "bias", .adapterMismatch),
    (#""use_bdlora": true"#, "use_bdlora", .badInput), (#""use_qalora": true"#, "takes 64", .adapterMismatch), (#""init_lora_weights": "pissa""#, "pissa", .badInput),
    (#""layer_replication": [[0, 1]]"#, "layer_replication", .adapterMismatch), (#""r": 1e99"#, "r is", .badInput),
    (#""lora_alpha": "x""#, "lora_alpha", .badInput), (#""rank_pattern": {"(": 3}"#, "rank_pattern", .badInput),
    (#""bias": "some""#, "bias", .badInput), (#""alpha_pattern": {"q": -1}"#, "alpha_pattern", .badInput),
    (#""rank_pattern": {"q_proj": 1e30}"#, "q_proj", .badInput), (#""rank_pattern": {"q_proj": 0}"#, "q_proj", .badInput),
    (#""alpha_pattern": {"(?R)": 1}"#, "alpha_pattern", .badInput),
    (#""rank_pattern": {"(([a-z.0-9_]+)+)+[!?]": 1}"#, "rank_pattern", .badInput),
  ]

  @Test("with configurations nibble has no code for are refused by name", arguments: refused)
  func refusals(change: String, word: String, kind: NibbleError.Kind) throws {
    let folder = TemporaryFolder()
    let source = fixture("adapters/dec_lora_qv") + "/"
    try folder.write("adapter_model.safetensors", try bytes(of: source + "adapter_model.safetensors"))
    var config = try JSON.parse(try bytes(of: source + "adapter_config.json"))
    for (key, value) in try JSON.parse("{\(change)}").members ?? [] { config = config.setting(key, to: value) }
    try folder.write("adapter_config.json", config.text())
    let error = #expect(throws: NibbleError.self) {
      let model = try model("llama")
      _ = try model.attach(AdapterFile.open(folder.path), name: "x")
    }
    #expect(error?.kind == kind && error?.path?.hasPrefix(folder.path) == true)
    #expect(error?.message.contains(word) == true, "\(error?.message ?? "")")
    // What the configuration says wrong is named by its key.
    if kind == .badInput { #expect(try error?.subject == JSON.parse("{\(change)}").members?.first?.key) }
  }

  /// A LoRA adapter of rank 2 on one layer of the tiny RoBERTa, and whatever else a test wants in it.
  static func roberta(_ config: String = "", _ more: (inout SafetensorsBuilder) -> Void) throws -> AdapterFile {
    let folder = TemporaryFolder()
    var builder = SafetensorsBuilder()
    let query = "base_model.model.roberta.encoder.layer.0.attention.self.query"
    builder.add(random: query + ".lora_A.weight", [2, 64])
    builder.add(random: query + ".lora_B.weight", [64, 2])
    more(&builder)
    try folder.write("adapter_model.safetensors", builder.bytes)
    try folder.write("adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": 4\#(config)}"#)
    let file = try AdapterFile.open(folder.path)
    return withExtendedLifetime(folder) { file }
  }

  @Test("PEFT's copies of biases of modules trained whole count once, and those of before not at all")
  func copies() throws {
    let bias = "base_model.model.classifier"
    func file(_ second: Float) throws -> AdapterFile {
      try Self.roberta {
        $0.add(bias + ".dense.bias", [64], Array(repeating: 1, count: 64))
        $0.add(bias + ".modules_to_save.default.dense.bias", [64], Array(repeating: second, count: 64))
        $0.add(bias + ".original_module.dense.bias", [64], Array(repeating: 3, count: 64))
      }
    }
    let adapter = try model("roberta").attach(try file(1), name: "a")
    #expect(adapter.vectors.values.map { $0.values[0] } == [1])
    #expect(throws: NibbleError.self) { try file(2) }
  }

  @Test("that hold NaN are refused, and the tensor named")
  func notFinite() throws {
    let file = try Self.roberta { $0.tensors[1].data.replaceSubrange(0..<4, with: [0, 0, 0xC0, 0x7F]) }
    let error = #expect(throws: NibbleError.self) { try model("roberta").attach(file, name: "a") }
    #expect(error?.kind == .quality && error?.message.contains("query.lora_B") == true)
  }

  @Test(
    "whose tensors fit nothing are refused, with the nearest name",
    arguments: [
      "base_model.model.roberta.encoder.layer.0.attention.self.quary.lora_A.weight", "base_model.model.roberta.nothing.bias",
      "roberta.encoder.layer.0.attention.self.key.lora_A.weight",
      "base_model.model.roberta.encoder.layer.0.attention.self.key.lora_C",
    ])
  func unmatched(name: String) throws {
    let error = #expect(throws: NibbleError.self) {
      let file = try Self.roberta {
        $0.add(random: name, [2, 64])
        if name.contains("quary") { $0.add(random: name.replacing("_A", with: "_B"), [64, 2]) }
      }
      _ = try model("roberta").attach(file, name: "a")
    }
    #expect(error?.kind == .adapterMismatch)
    if name.contains("quary") { #expect(error?.message.contains("layer.0.attention.self.query") == true) }
  }
}
