import Foundation
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("nibble adapter extract, resize, convert")
struct AdapterCommandTests {
  let folder = TemporaryFolder()
  static let stories = fixture("stories260K")
  static let adapter = fixture("shakespeare/adapter")

  @discardableResult
  func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json", "-q"])
    #expect(result.code == 0, "\(result.errors)")
    return try JSON.parse(result.output)
  }

  func loss(_ adapter: String) throws -> Double {
    let report = try json([
      "evaluate", "--base", Self.stories, "--adapter", adapter, "--task", "perplexity", "--data",
      fixture("shakespeare/scene.txt"),
    ])
    return try #require((report["perplexity"] ?? report["a"]?["perplexity"])?.double)
  }

  @Test("what Shakespeare taught a model is taken out of it, made smaller, sent to other programs and back")
  func journey() throws {
    _ = try json(["merge", "--base", Self.stories, "--adapter", Self.adapter, "-o", folder.file("tuned"), "--any-base"])
    let extracted = try json([
      "adapter", "extract", "--base", Self.stories, "--tuned", folder.file("tuned"), "--rank", "8", "-o", folder.file("out"),
    ])
    #expect((extracted["error"]?.double ?? 1) < 1e-5 && extracted["modules"]?.array?.count == 35)
    let resized = try json(["adapter", "resize", folder.file("out"), "--energy", "0.9", "-o", folder.file("small")])
    let energy = try #require(resized["energy"]?.double)
    #expect(energy >= 0.9 && energy < 1)
    let there = try json([
      "adapter", "convert", folder.file("small"), "--base", Self.stories, "-o", folder.file("small.gguf"),
    ])
    #expect(there["to"]?.string == "gguf" && (there["difference"]?.double ?? 1) < 1e-7)
    _ = try json([
      "adapter", "convert", folder.file("small.gguf"), "--base", Self.stories, "--to", "mlx", "-o", folder.file("mlx"),
    ])
    _ = try json(["adapter", "convert", folder.file("mlx"), "-o", folder.file("back")])
    let (whole, small, back) = (try loss(folder.file("out")), try loss(folder.file("small")), try loss(folder.file("back")))
    #expect(abs(small - back) < 1e-3 * small)
    #expect(whole < small)
  }

  @Test("a dry run says the same and writes nothing")
  func dryRun() throws {
    for arguments in [
      ["resize", Self.adapter, "--rank", "2"], ["convert", Self.adapter, "--to", "mlx"],
      ["extract", "--base", fixture("models/llama"), "--tuned", fixture("models/llama-bnb-nf4-dq"), "--rank", "2"],
    ] {
      let plan = try json(["adapter"] + arguments + ["-o", folder.file("o"), "--dry-run"])
      #expect(folder.contents.isEmpty)
      let done = try json(["adapter"] + arguments + ["-o", folder.file("o")])
      #expect(plan["error"] == done["error"] && plan["rank"] == done["rank"])
      try FileManager.default.removeItem(atPath: folder.file("o"))
    }
  }

  @Test("of an adapter that does not fit the base, the rest is printed and the mismatch named")
  func mismatch() throws {
    var builder = SafetensorsBuilder()
    builder.add(random: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", [1, 64])
    builder.add(random: "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", [64, 1])
    builder.add(random: "base_model.model.model.layers.0.self_attn.q_proj.lora_B.bias", [64])
    try folder.write("a/adapter_model.safetensors", builder.bytes)
    try folder.write("a/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_bias": true, "target_modules": ["q_proj"]}"#)
    let words = ["adapter", "inspect", folder.file("a"), "--base", Self.stories, "-q"]
    let result = try Program.run(words)
    #expect(result.code == 5 && result.errorLines.count == 1, "\(result.errors)")
    #expect(result.errors.contains("'model.layers.0.self_attn.q_proj' has a bias, and the base has none"), "\(result.errors)")
    #expect(result.output.contains("q_proj [64, 64]: rank 1") && result.output.contains("covers"), "\(result.output)")
    let document = try JSON.parse(Program.run(words + ["--json"]).output)
    #expect(document["mismatch"]?.string?.contains("has a bias") == true && document["modules"]?.array?.count == 1)
    #expect(try json(["adapter", "inspect", folder.file("a")])["mismatch"] == .null)
  }

  @Test("target_modules stays short: the union of lists in a combination, the ends that the base shows in a conversion")
  func shortTargets() throws {
    func targets(_ name: String) throws -> [String] {
      try #require(JSON.parse(bytes(of: folder.file(name + "/adapter_config.json")))["target_modules"]?.array).compactMap(\.string)
    }
    let lora = fixture("adapters/dec_lora_qv"), llama = fixture("models/llama")
    try json(["adapter", "combine", lora, lora + ":0.5", "-o", folder.file("sum")])
    #expect(try targets("sum") == ["q_proj", "v_proj"])
    // An adapter whose modules have whole paths for names keeps them.
    try json(["adapter", "combine", lora, fixture("adapters/dec_all_linear_patterns"), "-o", folder.file("paths"), "--any-base"])
    #expect(try targets("paths").contains("model.layers.1.mlp.up_proj"))
    try json(["adapter", "convert", lora, "--to", "mlx", "-o", folder.file("mlx")])
    for (name, base, expected) in [("short", ["--base", llama], 2), ("long", [], 4)] {
      try json(["adapter", "convert", folder.file("mlx"), "--to", "peft", "-o", folder.file(name)] + base)
      #expect(try targets(name).count == expected)
    }
    #expect(try targets("short") == ["q_proj", "v_proj"])
    try json(["adapter", "convert", lora, "--base", llama, "-o", folder.file("a.gguf")])
    try json(["adapter", "convert", folder.file("a.gguf"), "--to", "peft", "--base", llama, "-o", folder.file("back")])
    #expect(try targets("back") == ["q_proj", "v_proj"])
  }

  @Test(
    "words that make no sense are 2, files that are wrong 3, gates that are missed 6",
    arguments: [
      (["resize", adapter, "-o", "OUT"], 2), (["resize", adapter, "--rank", "100000", "-o", "OUT"], 2),
      (["resize", stories, "--rank", "2", "-o", "OUT"], 3), (["resize", adapter, "--rank", "2", "-o", adapter, "--force"], 2),
      (["convert", adapter, "-o", "OUT"], 2), (["convert", adapter, "-o", "OUT.gguf"], 2),
      (["convert", adapter, "--to", "gguf", "--base", stories, "-o", "OUT"], 2),
      (["convert", adapter, "--to", "mlx", "-o", "OUT.gguf"], 2), (["convert", adapter + "/none", "-o", "OUT"], 3),
      (["convert", stories + "/config.json", "-o", "OUT"], 3),
      (["convert", adapter, "--to", "mlx", "--base", fixture("models/gpt2"), "-o", "OUT"], 5),
      (["extract", "--base", stories, "--tuned", stories, "--rank", "2", "-o", "OUT"], 2),
      (["extract", "--base", stories, "--tuned", fixture("models/llama"), "--rank", "2", "-o", "OUT"], 5),
      (
        [
          "extract", "--base", fixture("models/llama"), "--tuned", fixture("models/llama-bnb-nf4-dq"), "--rank", "2",
          "--min-energy", "0.9", "-o", "OUT",
        ], 6
      ), (["combine", adapter, adapter, "--method", "ties", "-o", "OUT"], 2),
      (["combine", adapter, adapter, "--method", "ties", "--density", "2", "-o", "OUT"], 2),
      (["combine", adapter, adapter, "--method", "cat", "--density", "0.5", "-o", "OUT"], 2),
      (["combine", adapter, adapter, "--method", "ties", "--density", "0.5", "--seed", "3", "-o", "OUT"], 2),
    ] as [([String], Int32)])
  func refused(_ arguments: [String], _ code: Int32) throws {
    let words = arguments.map { $0.hasPrefix("OUT") ? folder.file("o" + $0.dropFirst(3)) : $0 }
    let result = try Program.run(["adapter"] + words + ["-q"])
    #expect(result.code == code, "\(arguments): \(result.errors)")
    #expect(result.errorLines.count == 1)
    #expect(folder.contents.isEmpty)
  }
}
