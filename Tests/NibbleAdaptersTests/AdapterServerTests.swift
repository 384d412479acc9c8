import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@testable import NibbleAdapters

@Suite("What programs that serve adapters make of one")
struct AdapterServerTests {
  let folder = TemporaryFolder()

  /// An adapter of two layers of stories260K.
  private func adapter(
    _ name: String, rank: (Int) -> Int = { _ in 4 }, alpha: (Int) -> Double = { _ in 8 }, changing: (JSON) -> JSON = { $0 },
    and more: [AdapterFolder.Tensor] = []
  ) throws -> AdapterFile {
    let modules = (0..<2).flatMap { layer in
      ["q_proj", "v_proj"].map { kind in
        let (outputs, r) = (kind == "q_proj" ? 64 : 32, rank(layer))
        let values = (0..<(64 + outputs) * r).map { Float($0 % 13) / 100 - 0.05 }
        return (path: "model.layers.\(layer).self_attn.\(kind)", layer: layer, r, Array(values.prefix(64 * r)), Array(values.suffix(outputs * r)), outputs)
      }
    }
    let ranks = JSON.object(modules.filter { $0.2 != 4 }.map { ($0.path.replacing(".", with: "\\."), JSON($0.2)) })
    let alphas = JSON.object(modules.filter { alpha($0.layer) != 8 }.map { ($0.path.replacing(".", with: "\\."), JSON(alpha($0.layer))) })
    let config: JSON = [
      "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"],
      "rank_pattern": ranks, "alpha_pattern": alphas,
    ]
    let tensors = modules.flatMap { module in
      [
        AdapterFolder.Tensor("base_model.model.\(module.path).lora_A.weight", [module.2, 64], module.3),
        AdapterFolder.Tensor("base_model.model.\(module.path).lora_B.weight", [module.5, module.2], module.4),
      ]
    }
    try AdapterFolder(config: changing(config), tensors: tensors + more, binding: nil).write(to: folder.file(name), force: true)
    return try AdapterFile.open(folder.file(name))
  }

  private func findings(_ program: String, _ file: AdapterFile, base: Bool = false) throws -> [AdapterServer.Finding] {
    let server = try #require(AdapterServer.all.first { $0.name == program })
    return try server.findings(file, base: base ? Checkpoint.open(fixture("stories260K")) : nil)
  }

  @Test("plain LoRA is loaded as it is, or after a conversion")
  func plain() throws {
    let file = try adapter("plain")
    #expect(try findings("vllm", file).isEmpty && findings("lorax", file).isEmpty)
    #expect(try findings("mlx", file).map(\.remedy) == [.convert(.mlx)])
    #expect(try findings("llama.cpp", file, base: true).map(\.remedy) == [.convert(.gguf)])
  }

  @Test("scales that patterns give are wrong where no patterns are read, and right after a conversion", arguments: ["vllm", "lorax"])
  func patterns(_ program: String) throws {
    let file = try adapter("patterns", alpha: { $0 == 0 ? 8 : 16 })
    let found = try findings(program, file)
    #expect(found.map(\.kind) == [.wrong] && found[0].remedy == .convert(.uniform))
    #expect(found[0].text.description.contains("2 of 4 have another scale"))
    let report = try AdapterConversion(file.path, to: .uniform).write(to: folder.file("uniform"), force: false)
    #expect(report.difference < 1e-6)
    #expect(try findings(program, AdapterFile.open(folder.file("uniform"))).isEmpty)
  }

  @Test("a rank that differs changes the scale too; the conversion fills it up")
  func ranks() throws {
    let file = try adapter("ranks", rank: { $0 == 0 ? 4 : 2 })
    #expect(try findings("vllm", file).map(\.kind) == [.wrong])
    #expect(try Set(findings("lorax", file).map(\.kind)) == [.wrong, .refused])
    _ = try AdapterConversion(file.path, to: .uniform).write(to: folder.file("uniform"), force: false)
    let uniform = try AdapterFile.open(folder.file("uniform"))
    #expect(uniform.modules.map(\.rank) == [4, 4, 4, 4] && Set(uniform.modules.map(\.scale)).count == 1)
    #expect(try findings("vllm", uniform).isEmpty && findings("lorax", uniform).isEmpty)
  }

  @Test("ranks above vLLM's default need a flag, above its largest nothing helps but a smaller rank", arguments: [(24, 32), (600, 0)])
  func large(_ rank: Int, _ needed: Int) throws {
    let found = try findings("vllm", adapter("large", rank: { _ in rank }, alpha: { _ in 2 * Double(rank) }))
    #expect(found.map(\.remedy) == (needed == 0 ? [.resize(rank: 512)] : [.start(option: "max-lora-rank", value: needed)]))
  }

  @Test("what is trained beside factors is refused by one, left out by the other")
  func whole() throws {
    let head = AdapterFolder.Tensor("base_model.model.lm_head.weight", [512, 64], [Float](repeating: 0.5, count: 512 * 64))
    let file = try adapter("whole", changing: { $0.setting("modules_to_save", to: ["lm_head"]) }, and: [head])
    #expect(try findings("vllm", file).map(\.kind) == [.refused])
    #expect(try findings("lorax", file).map(\.kind) == [.wrong])
    #expect(try findings("mlx", file).map(\.kind) == [.refused])
    #expect(try findings("llama.cpp", file, base: true).map(\.remedy) == [.merge])
  }

  @Test("LoRAX leaves out what some layers lack")
  func layers() throws {
    // stories260K has five layers.
    let found = try findings("lorax", adapter("few"), base: true)
    #expect(found.map(\.kind) == [.wrong, .wrong] && found.allSatisfy { $0.text.description.contains("2 of 5 layers") })
  }
}
