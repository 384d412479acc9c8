import NibbleFormats
import Testing

@Suite("Paths that files spell otherwise than modules are called")
struct SpellingTests {
  @Test(
    "ViT's are those of transformers 5 and of transformers 4, with and without the model's prefix, as modules and as parameters",
    arguments: [
      ("vit.layers.3.attention.q_proj.weight", "vit.encoder.layer.3.attention.attention.query.weight"),
      ("layers.0.attention.o_proj", "encoder.layer.0.attention.output.dense"), ("layers.0.mlp.fc1.bias", "encoder.layer.0.intermediate.dense.bias"),
      ("vit.layers.11.mlp.fc2", "vit.encoder.layer.11.output.dense"), ("vit.layernorm.weight", "vit.layernorm.weight"),
      ("classifier", "classifier"),
    ])
  func vit(module: String, file: String) throws {
    let family = try #require(ModelFamily.named("vit"))
    #expect(family.inFiles(module) == file)
    #expect(family.inModules(file) == module)
    #expect(family.inFiles(file) == file)
    #expect(family.inModules(module) == module)
  }

  @Test("other families spell them alike") func others() throws {
    let family = try #require(ModelFamily.named("llama"))
    #expect(family.inFiles("model.layers.0.mlp.down_proj") == "model.layers.0.mlp.down_proj")
  }
}
