import NibbleAdapters
import NibbleCore
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

@Suite("The head of a classifier")
struct HeadTests {
  let folder = TemporaryFolder()

  /// A BERT of one layer and 8 numbers a token that tells three classes apart.
  func bert() throws -> String {
    var file = SafetensorsBuilder()
    func add(_ name: String, _ outputs: Int, _ inputs: Int) {
      file.add(random: name + ".weight", [outputs, inputs])
      file.add(random: name + ".bias", [outputs])
    }
    for (table, count) in [("word", 16), ("position", 8), ("token_type", 2)] {
      file.add(random: "bert.embeddings.\(table)_embeddings.weight", [count, 8])
    }
    let layer = "bert.encoder.layer.0."
    for norm in ["bert.embeddings", layer + "attention.output", layer + "output"] {
      for part in ["weight", "bias"] { file.add(random: "\(norm).LayerNorm.\(part)", [8]) }
    }
    for name in ["self.query", "self.key", "self.value", "output.dense"] { add(layer + "attention." + name, 8, 8) }
    add(layer + "intermediate.dense", 12, 8)
    add(layer + "output.dense", 8, 12)
    add("bert.pooler.dense", 8, 8)
    add("classifier", 3, 8)
    try folder.write("bert/model.safetensors", file.bytes)
    try folder.write(
      "bert/config.json",
      """
      {"model_type": "bert", "architectures": ["BertForSequenceClassification"], "hidden_size": 8, "intermediate_size": 12,
       "num_attention_heads": 2, "num_hidden_layers": 1, "vocab_size": 16, "max_position_embeddings": 8, "type_vocab_size": 2,
       "num_labels": 3}
      """)
    return folder.file("bert")
  }

  @Test("is named by the modules that hold no part of the body")
  func heads() throws {
    let cases = [(try bert(), ["bert.pooler", "classifier"]), (fixture("models/roberta"), ["classifier"])]
    for (path, expected) in cases {
      let model = try Model(path, threads: 1)
      let folder = try Trained(AdapterOptions(), on: model).folder(AdapterOptions(), start: nil, on: model, binding: nil)
      #expect(folder.config["modules_to_save"] == JSON(expected), "\(folder.config.text())")
      #expect(folder.config["task_type"] == "SEQ_CLS")
    }
  }
}
