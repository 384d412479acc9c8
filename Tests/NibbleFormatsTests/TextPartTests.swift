import NibbleCore
import NibbleFormats
import Testing

@Suite("Text models of models that take pictures as well")
struct TextPartTests {
  private func part(_ type: String) throws -> TextPart { try #require(TextPart.all.first { $0.modelTypes.contains(type) }) }

  @Test(
    "modules are called as transformers calls them, files spell them in their own way, and both lead to the text model's own name",
    arguments: [
      ("gemma3", "model.layers.0.mlp.up_proj.weight", "model.language_model.layers.0.mlp.up_proj.weight", "language_model.model.layers.0.mlp.up_proj.weight"),
      ("mistral3", "lm_head.weight", "lm_head.weight", "language_model.lm_head.weight"),
      ("llava", "model.norm.weight", "model.language_model.norm.weight", "language_model.model.norm.weight"),
      ("llama4", "lm_head.weight", "language_model.lm_head.weight", "language_model.lm_head.weight"),
      ("llama4", "model.embed_tokens.weight", "language_model.model.embed_tokens.weight", "language_model.model.embed_tokens.weight"),
      ("smolvlm", "model.layers.1.self_attn.q_proj", "model.text_model.layers.1.self_attn.q_proj", "model.text_model.layers.1.self_attn.q_proj"),
      ("qwen2_vl", "model.layers.1.self_attn.q_proj", "model.language_model.layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj"),
      ("qwen3_vl", "model.norm.weight", "model.language_model.norm.weight", "model.language_model.norm.weight"),
    ])
  func names(type: String, own: String, module: String, file: String) throws {
    let part = try part(type)
    #expect(part.whole(own) == module)
    #expect(part.whole(module) == module)
    #expect(part.own(module) == own)
    #expect(part.inModules(file) == module)
    #expect(part.inModules(module) == module)
    #expect(!part.isOther(module) && !part.isOther(file))
  }

  @Test(
    "other parts are known under both spellings", arguments: [
      ("gemma3", "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight"), ("gemma3", "model.vision_tower.encoder.layers.0.mlp.fc1.weight"),
      ("gemma3", "multi_modal_projector.mm_input_projection_weight"), ("llama4", "vision_model.layernorm_pre.bias"), ("qwen2_5_vl", "visual.merger.mlp.0.weight"),
      ("qwen2_5_vl", "model.visual.merger.mlp.0.weight"), ("idefics3", "model.connector.modality_projection.proj.weight"),
    ])
  func others(type: String, name: String) throws {
    let part = try part(type)
    #expect(part.isOther(name))
    #expect(part.own(part.inModules(name)) == nil)
  }
}
