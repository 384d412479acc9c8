import Testing

@testable import NibbleAdapters

@Suite("Short names of adapted modules")
struct ShortTargetsTests {
  /// Every module of two layers.
  static func layers(_ names: [String]) -> [String] { (0..<2).flatMap { layer in names.map { "model.layers.\(layer).\($0)" } } }

  static let llama = layers(["self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "input_layernorm"]) + ["model.embed_tokens", "lm_head"]
  static let gpt2 = layers(["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"])
  static let bert = layers(["attention.self.query", "attention.output.dense", "output.dense", "intermediate.dense"]) + ["pooler.dense"]

  static let cases: [(adapted: [String], modules: [String], names: [String])] = [
    (layers(["self_attn.q_proj", "mlp.up_proj"]), llama, ["q_proj", "up_proj"]),
    // One layer of two: only its path means it.
    (["model.layers.1.self_attn.q_proj"], llama, ["model.layers.1.self_attn.q_proj"]),
    (["model.embed_tokens"], llama, ["embed_tokens"]), (["lm_head"], llama, ["lm_head"]),
    (layers(["attn.c_proj"]), gpt2, ["attn.c_proj"]), (layers(["attn.c_proj", "mlp.c_proj"]), gpt2, ["c_proj"]),
    (layers(["attention.self.query", "output.dense", "attention.output.dense"]), bert, ["output.dense", "query"]),
    // A head of transformers' may have a 'dense' that the checkpoint does not show.
    (layers(["intermediate.dense"]), layers(["intermediate.dense"]), ["intermediate.dense"]),
    // A module that holds others is matched by PEFT too.
    (["a.0.proj"], ["a.0.proj", "b.proj.weight_norm"], ["a.0.proj"]),
  ]

  @Test("are those that no other module's path ends with", arguments: cases)
  func names(adapted: [String], modules: [String], names: [String]) {
    #expect(ShortTargets.names(adapted, among: modules) == names)
  }
}
