import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

@Suite("Parts of adapters")
struct PartsTests {
  let folder = TemporaryFolder()

  /// What an adapter holds beside its `q_proj`, or `c_attn`.
  enum Part: String, CaseIterable { case rows, headRows, factorBias, tableFactors, parameters, sharedWeight }

  /// An adapter as PEFT writes it, for the model `base`.
  func adapter(_ part: Part, _ base: String) throws -> AdapterFile {
    let isGPT2 = base == "gpt2"
    let table = isGPT2 ? "transformer.wte" : "model.embed_tokens"
    let layer = isGPT2 ? "transformer.h.1.attn.c_attn" : "model.layers.1.self_attn.q_proj"
    let outputs = isGPT2 ? 192 : 64
    var config: JSON = [
      "peft_type": "LORA", "r": 4, "lora_alpha": 6, "fan_in_fan_out": .bool(isGPT2), "target_modules": [.string(layer)],
    ]
    var file = SafetensorsBuilder()
    let prefix = "base_model.model."
    // Factors of a Conv1D's weight as it is stored, [inputs, outputs].
    let isTurned = part == .parameters && isGPT2
    file.add(random: prefix + layer + ".lora_A.weight", [4, isTurned ? outputs : 64])
    file.add(random: prefix + layer + ".lora_B.weight", [isTurned ? 64 : outputs, 4])
    switch part {
    case .rows:
      config = config.setting("trainable_token_indices", to: [7, 200, 3])
      file.add(random: prefix + table + ".token_adapter.trainable_tokens_delta", [3, 64])
    case .headRows:
      config = config.setting("trainable_token_indices", to: ["lm_head": [7, 200, 3]])
      file.add(random: prefix + "lm_head.token_adapter.trainable_tokens_delta", [3, 64])
    case .parameters:
      config = config.setting("target_modules", to: []).setting("fan_in_fan_out", to: false)
        .setting("target_parameters", to: [.string(layer + ".weight"), .string(table + ".weight")])
      file.add(random: prefix + table + ".lora_A.weight", [4, 64])
      file.add(random: prefix + table + ".lora_B.weight", [256, 4])
    case .factorBias:
      config = config.setting("lora_bias", to: true)
      file.add(random: prefix + layer + ".lora_B.bias", [outputs])
    case .tableFactors:
      file.add(random: prefix + table + ".lora_embedding_A", [4, 256])
      file.add(random: prefix + table + ".lora_embedding_B", [64, 4])
    case .sharedWeight:
      config = config.setting("ensure_weight_tying", to: true).setting("modules_to_save", to: [.string(table), "lm_head"])
      file.add(random: prefix + table + ".weight", [256, 64])
      file.tensors.append((prefix + "lm_head.weight", "F32", [256, 64], file.tensors[file.tensors.count - 1].data))
    }
    try folder.write("a/adapter_config.json", config.text())
    try folder.write("a/adapter_model.safetensors", file.bytes)
    return try AdapterFile.open(folder.file("a"))
  }

  /// The batch has tokens 3, 7 and 200, as inputs and as what is learned.
  static let batch = [[7, 9, 3, 200, 7, 41, 3], [200, 3, 5, 7]]

  @Test(
    "have the slope of the loss for their gradient, attach as they were trained, and are written as they were read",
    arguments: Part.allCases, ["llama", "gpt2"])
  func slopes(_ part: Part, _ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    // Of these bases only GPT-2's head is the embedding.
    guard part != .sharedWeight || base == "gpt2" else { return }
    let file = try adapter(part, base)
    let trained = try Trained(file, on: model)
    #expect(trained.tensors.count == [Part.rows: 3, .headRows: 3, .factorBias: 3, .tableFactors: 4, .parameters: 4, .sharedWeight: 3][part])
    let pass = TrainingPass(model, trained)
    let runs = Self.batch.map { TokenRun($0) }
    func loss(learns: Bool = false) throws -> Double { try pass.language(runs, labels: Self.batch, learns: learns).loss }
    let first = try loss(learns: true)
    try checkSlopes(of: trained) { try loss() }
    // A running model has the same loss.
    let active = ActiveAdapter(try model.attach(file, name: "a"), weight: 1)
    let attached = Batch.tokens(Self.batch.map { TokenRun($0, adapters: [active]) })
    let hidden = try model.network.hidden(attached, tape: nil)
    let rows = Array(0..<Self.batch[0].count + Self.batch[1].count)
    let logits = try model.network.logits(hidden, rows: rows, of: attached)
    let vocabulary = try model.vocabularySize
    var sum = 0.0, count = 0, row = 0
    for ids in Self.batch {
      for index in ids.indices {
        defer { row += 1 }
        guard index + 1 < ids.count else { continue }
        let own = logits + row * vocabulary
        sum += LayerKernels.logSumExp(own, count: vocabulary) - Double(own[ids[index + 1]])
        count += 1
      }
    }
    #expect(abs(sum / Double(count) - first) <= 1e-5 * first)
    let written = trained.folder(AdapterOptions(), start: file.config.json, on: model, binding: nil)
    #expect(written.tensors.map(\.name).sorted() == file.mapped.checkpoint.tensors.map(\.name.text).sorted())
  }

  @Test("are not trained as one where PEFT does not tie what ensure_weight_tying asks for: a head that is stored must be the base's")
  func untied() throws {
    let model = try Model(fixture("models/gpt2"), threads: 1)
    let config = try adapter(.sharedWeight, "gpt2").config.json.setting("modules_to_save", to: ["wte"])
    try folder.write("a/adapter_config.json", config.text())
    let error = #expect(throws: NibbleError.self) { try Trained(AdapterFile.open(folder.file("a")), on: model) }
    #expect(error?.message.contains("lm_head.weight' is not the base's weight") == true, "\(error?.message ?? "")")
  }

  @Test("do not include the base's weight, which PEFT stores beside a head's factors; it has to be the base's own", arguments: [true, false])
  func frozen(_ isOwn: Bool) throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    var values = try SmallSafetensors(fixture("models/llama/model.safetensors")).floats("lm_head.weight")
    if !isOwn { values[77] += 0.5 }
    let head = AdapterFile.prefix + "lm_head."
    var file = SafetensorsBuilder()
    file.add(random: head + "lora_A.weight", [2, 64])
    file.add(random: head + "lora_B.weight", [256, 2])
    file.add(head + "base_layer.weight", [256, 64], values)
    try folder.write("a/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "target_modules": ["lm_head"]}"#)
    try folder.write("a/adapter_model.safetensors", file.bytes)
    func trained() throws -> [String] { try Trained(AdapterFile.open(folder.file("a")), on: model).tensors.map(\.name).sorted() }
    if isOwn { return #expect(try trained() == [head + "lora_A.weight", head + "lora_B.weight"]) }
    let error = #expect(throws: NibbleError.self) { try trained() }
    #expect(error?.kind == .usage && error?.message.contains("lm_head.base_layer.weight") == true, "\(error?.message ?? "")")
  }

  @Test("do not include a head's weight that is stored and that no saved module is, though the embedding's is trained")
  func storedHead() throws {
    let model = try Model(fixture("models/gpt2"), threads: 1)
    let own = try SmallSafetensors(fixture("models/gpt2/model.safetensors")).floats("transformer.wte.weight")
    var file = SafetensorsBuilder()
    for name in ["transformer.wte.weight", "lm_head.weight"] { file.add(AdapterFile.prefix + name, [256, 64], own) }
    // PEFT knows the embedding by another name, and ties nothing to it.
    try folder.write(
      "a/adapter_config.json",
      #"{"peft_type": "LORA", "r": 2, "modules_to_save": ["transformer.wte"], "ensure_weight_tying": true}"#)
    try folder.write("a/adapter_model.safetensors", file.bytes)
    let names = try Trained(AdapterFile.open(folder.file("a")), on: model).tensors.map(\.name)
    #expect(names == [AdapterFile.prefix + "transformer.wte.weight"])
  }

  @Test("that are rows of a layer that is no head are refused by name")
  func layerRows() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    var file = SafetensorsBuilder()
    file.add(random: AdapterFile.prefix + "model.layers.0.self_attn.q_proj.token_adapter.trainable_tokens_delta", [2, 64])
    try folder.write("a/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "trainable_token_indices": {"q_proj": [3, 7]}}"#)
    try folder.write("a/adapter_model.safetensors", file.bytes)
    let error = #expect(throws: NibbleError.self) { try Trained(AdapterFile.open(folder.file("a")), on: model) }
    #expect(error?.kind == .usage && error?.message.contains("q_proj'") == true, "\(error?.message ?? "")")
  }

  @Test("of a shared weight that is stored twice both have to be the same")
  func partial() throws {
    let model = try Model(fixture("models/gpt2"), threads: 1)
    _ = try adapter(.sharedWeight, "gpt2")
    let path = folder.file("a/adapter_model.safetensors")
    var bytes = try bytes(of: path)
    bytes[bytes.count - 2] ^= 1
    try folder.write("a/adapter_model.safetensors", bytes)
    let error = #expect(throws: NibbleError.self) { try Trained(AdapterFile.open(folder.file("a")), on: model) }
    #expect(error?.kind == .adapterMismatch && error?.message.contains("differ") == true, "\(error?.message ?? "")")
  }

  @Test("that PEFT writes under several names are written under the one it reads")
  func wrappedNames() throws {
    let model = try Model(fixture("models/roberta"), threads: 1)
    var file = SafetensorsBuilder()
    let (prefix, query) = ("base_model.model.", "roberta.encoder.layer.0.attention.self.query")
    file.add(random: prefix + query + ".lora_A.weight", [2, 64])
    file.add(random: prefix + query + ".lora_B.weight", [64, 2])
    file.add(random: prefix + query + ".base_layer.bias", [64])
    for name in ["classifier.dense", "classifier.modules_to_save.default.dense", "classifier.original_module.dense"] {
      file.add(prefix + name + ".bias", [64], (0..<64).map { Float($0) })
    }
    try folder.write("a/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "bias": "all", "task_type": "SEQ_CLS"}"#)
    try folder.write("a/adapter_model.safetensors", file.bytes)
    let names = try Trained(AdapterFile.open(folder.file("a")), on: model).tensors.map { String($0.name.dropFirst(prefix.count)) }
    #expect(
      names.sorted() == ["classifier.dense.bias"]
        + ["base_layer.bias", "lora_A.weight", "lora_B.weight"].map { query + "." + $0 })
  }
}
