import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import TestSupport
import Testing

/// A fixture's model whose configuration and tensors a test has changed.
func changed(
  _ base: String, _ config: String = "", in folder: TemporaryFolder = TemporaryFolder(), _ change: (inout SafetensorsBuilder) -> Void
) throws -> Model {
  let source = fixture(base)
  let stored = try SmallSafetensors(source + "/model.safetensors")
  var builder = SafetensorsBuilder()
  for name in stored.names {
    guard let entry = stored.entry(name), let data = stored[name] else { continue }
    builder.add(name, entry.dtype.rawValue, entry.shape, data)
  }
  change(&builder)
  try folder.write("model.safetensors", builder.bytes)
  var json = try JSON.parse(try bytes(of: source + "/config.json"))
  for (key, value) in try JSON.parse("{\(config)}").members ?? [] { json = json.setting(key, to: value) }
  try folder.write("config.json", json.text())
  return try Model(folder.path)
}

extension SafetensorsBuilder {
  subscript(name: String) -> [UInt8] {
    get { tensors.first { $0.name == name }?.data ?? [] }
    set { for index in tensors.indices where tensors[index].name == name { tensors[index].data = newValue } }
  }

  mutating func rename(_ name: String, _ other: String) {
    for index in tensors.indices { tensors[index].name = tensors[index].name.replacing(name, with: other) }
  }
}

@Suite("Models whose files say the same in another way")
struct StoredFormTests {
  private let ids = [3, 1, 4, 1, 5, 9, 2, 6]
  private var run: [TokenRun] { [TokenRun(ids)] }

  private func isTied(_ model: Model) -> Bool { model.tied != nil }

  @Test("a head of its own counts, whatever the configuration says, unless it is the embedding over again")
  func heads() throws {
    let untied = try changed("models/llama") { _ in }
    let own = try changed("models/llama", #""tie_word_embeddings": true"#) { _ in }
    #expect(try own.scores(run) == (try untied.scores(run)))
    #expect(!isTied(own))
    // One number is enough.
    let twice = try changed("models/llama", #""tie_word_embeddings": true"#) {
      $0["lm_head.weight"] = $0["model.embed_tokens.weight"]
    }
    #expect(isTied(twice))
    let almost = try changed("models/llama", #""tie_word_embeddings": true"#) {
      $0["lm_head.weight"] = Array($0["model.embed_tokens.weight"].dropLast(4)) + littleEndian(Float(1).bitPattern)
    }
    #expect(!isTied(almost))
    #expect(throws: NibbleError.self) {
      try changed("stories260K") { $0.add(random: "lm_head.weight", [511, 64]) }
    }
  }

  @Test("rows of tokens are trained for a head that the configuration ties, whatever the file holds for it", arguments: [true, false])
  func rowsOfHeads(isCopy: Bool) throws {
    let tied = #""tie_word_embeddings": true"#
    let rows: [[Float]] = (0..<2).map { row in
      (0..<64).map { (column: Int) -> Float in Float((column * 7 + row * 3) % 11) * 0.03 }
    }
    func prepare(_ builder: inout SafetensorsBuilder) {
      if isCopy { builder["lm_head.weight"] = builder["model.embed_tokens.weight"] }
    }
    let wanted = try changed("models/llama", tied) { builder in
      prepare(&builder)
      for name in ["lm_head.weight", "model.embed_tokens.weight"] {
        for (row, token) in [3, 9].enumerated() {
          builder[name].replaceSubrange(token * 256..<token * 256 + 256, with: rows[row].flatMap { littleEndian($0.bitPattern) })
        }
      }
    }.scores(run)
    let folder = TemporaryFolder()
    var builder = SafetensorsBuilder()
    builder.add("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", [2, 64], rows.flatMap { $0 })
    try folder.write("adapter_model.safetensors", builder.bytes)
    try folder.write(
      "adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, "trainable_token_indices": {"embed_tokens": [3, 9]}}"#)
    let base = TemporaryFolder()
    let model = try changed("models/llama", tied, in: base) { prepare(&$0) }
    let adapter = try AdapterFile.open(folder.path)
    let attached = ActiveAdapter(try model.attach(adapter, name: "a"))
    #expect(greatestDifference(try model.scores([TokenRun(ids, adapters: [attached])]), wanted) <= 1e-5)
    let job = try StreamJob.merge(
      Checkpoint.open(base.path), MergeOptions([.init(adapter)]),
      to: OutputSpec(path: folder.file("merged"), format: nil, default: .safetensors))
    _ = try job.run()
    #expect(greatestDifference(try Model(folder.file("merged")).scores(run), wanted) <= 1e-5)
  }

  @Test(
    "a shared weight is found only under the head's name",
    arguments: [("stories260K", "model.embed_tokens"), ("models/gpt2", "transformer.wte")])
  func headOnly(base: String, embedding: String) throws {
    let model = try changed(base) { $0.rename(embedding, "lm_head") }
    #expect(try model.scores(run) == (try changed(base) { _ in }.scores(run)))
    #expect(isTied(model) && model.parameterNames.contains(embedding + ".weight"))
    #expect(throws: NibbleError.self) { try changed(base, #""tie_word_embeddings": false"#) { $0.rename(embedding, "lm_head") } }
  }

  @Test("layer norms may be spelled gamma and beta")
  func gamma() throws {
    let model = try changed("models/roberta") {
      $0.rename("LayerNorm.weight", "LayerNorm.gamma")
      $0.rename("LayerNorm.bias", "LayerNorm.beta")
    }
    #expect(try model.scores(run) == (try changed("models/roberta") { _ in }.scores(run)))
    #expect(model.parameterNames.contains("roberta.embeddings.LayerNorm.weight"))
  }

  @Test("scores of attention shrink with the layer's number, or not with the width, where the configuration asks")
  func attentionScales() throws {
    // Queries are the first third of c_attn's outputs: scaling them scales the scores. Sixteenfold, attention is not flat.
    func scores(_ config: String, _ factors: [Float] = [1, 1]) throws -> [Float] {
      try changed("models/gpt2", config) { builder in
        for (layer, factor) in factors.enumerated() {
          for part in ["weight", "bias"] {
            let name = "transformer.h.\(layer).attn.c_attn." + part
            var data = builder[name]
            for at in stride(from: 0, to: data.count, by: 4) where at / 4 % 192 < 64 {
              let value = Float(bitPattern: (0..<4).reduce(UInt32(0)) { $0 | UInt32(data[at + $1]) << UInt32(8 * $1) })
              data.replaceSubrange(at..<at + 4, with: littleEndian((16 * value * factor).bitPattern))
            }
            builder[name] = data
          }
        }
      }.scores(run)
    }
    let byDepth = try scores(#""scale_attn_by_inverse_layer_idx": true"#)
    #expect(greatestDifference(byDepth, try scores("", [1, 0.5])) <= 2e-5)
    #expect(greatestDifference(byDepth, try scores("")) > 1e-4)
    let unscaled = try scores(#""scale_attn_weights": false"#)
    #expect(greatestDifference(unscaled, try scores("", [4, 4])) <= 2e-5)
    let both = try scores(#""scale_attn_weights": false, "scale_attn_by_inverse_layer_idx": true"#)
    #expect(greatestDifference(both, try scores("", [4, 2])) <= 2e-5)
  }

  /// Tables beside the tokens', and rows of them that a run uses.
  static let otherTables = [
    ("models/gpt2", "transformer.wpe", 64), ("models/roberta", "roberta.embeddings.position_embeddings", 66),
    ("models/roberta", "roberta.embeddings.token_type_embeddings", 1),
  ]

  @Test("an adapter that trains a table of embeddings is the base with that table", arguments: otherTables, [true, false])
  func tables(table: (base: String, name: String, rows: Int), isWhole: Bool) throws {
    var generator = TestSupport.Generator(11)
    let values = (0..<table.rows * 64).map { _ in generator.normal() }
    let last = table.name.split(separator: ".").last.map(String.init) ?? ""
    let folder = TemporaryFolder()
    var builder = SafetensorsBuilder()
    if isWhole {
      builder.add("base_model.model.\(table.name).weight", [table.rows, 64], values)
    } else {
      builder.add("base_model.model.\(table.name).token_adapter.trainable_tokens_delta", [table.rows, 64], values)
    }
    try folder.write("adapter_model.safetensors", builder.bytes)
    let trained = isWhole ? #""modules_to_save": ["\#(last)"]"# : #""trainable_token_indices": {"\#(last)": \#(Array(0..<table.rows))}"#
    try folder.write("adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": 4, \#(trained)}"#)
    let model = try changed(table.base) { _ in }
    let adapter = ActiveAdapter(try model.attach(AdapterFile.open(folder.path), name: "a"))
    let wanted = try changed(table.base) { builder in
      builder[table.name + ".weight"] = values.flatMap { littleEndian($0.bitPattern) }
    }

    // Rows beside it without the adapter keep the base's table.
    let scores = try model.scores([TokenRun(ids), TokenRun(ids, adapters: [adapter])])
    let bare = try model.scores([TokenRun(ids)])
    #expect(greatestDifference(Array(scores.prefix(bare.count)), bare) <= 1e-5)
    #expect(greatestDifference(Array(scores.suffix(bare.count)), try wanted.scores([TokenRun(ids)])) <= 1e-5)
    #expect(greatestDifference(Array(scores.suffix(bare.count)), bare) > 1e-2)
  }
}
