import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("The verb that merges")
struct MergeCommandTests {
  let folder = TemporaryFolder()
  static let adapter = fixture("shakespeare/adapter")
  static let llama = fixture("models/llama")
  static let lora = fixture("adapters/dec_lora_qv")

  @discardableResult
  func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json"])
    #expect(result.code == 0, "\(result.errors)")
    return try JSON.parse(result.output)
  }

  func loss(_ base: String, adapter: String? = nil) throws -> Double {
    let words = [
      "evaluate", "--base", base, "--task", "perplexity", "--data", fixture("shakespeare/scene.txt"), "--windows", "whole",
    ]
    let report = try json(words + (adapter.map { ["--adapter", $0] } ?? []))
    return try #require(report["perplexity"]?.double)
  }

  @Test("What an adapter taught is kept in 16 bits, by shaping and by packing anew, and lost by rounding")
  func learned() throws {
    let base = folder.file("base.nbl")
    try json(["quantize", stories, "-o", base])
    let merge = ["merge", "--adapter", Self.adapter, "-o"]
    try json(merge + [folder.file("bf16"), "--base", stories, "--trained-on", "nf4", "--dtype", "bf16"])
    let rounded = try json(merge + [folder.file("rounded.nbl"), "--base", base, "--min-survival", "0"])
    let shaped = try json(merge + [folder.file("shaped.nbl"), "--base", base, "--when-lost", "shape", "--min-survival", "0.9"])
    let anew = try json(merge + [folder.file("anew.nbl"), "--base", stories])
    #expect((rounded["survival_worst"]?.double ?? 1) < 0.2)
    #expect((shaped["survival_worst"]?.double ?? 0) >= 0.9)
    #expect((anew["survival_worst"]?.double ?? 0) >= 0.9)
    let untaught = try loss(base), attached = try loss(base, adapter: Self.adapter)
    #expect(attached < 0.3 * untaught)
    #expect(try abs(loss(folder.file("bf16")) / attached - 1) < 0.01)
    #expect(try loss(folder.file("shaped.nbl")) < 1.2 * attached)
    #expect(try loss(folder.file("anew.nbl")) < 1.2 * attached)
    #expect(try loss(folder.file("rounded.nbl")) > 1.5 * attached)
  }

  @Test("What blocks of a GGUF file would lose is kept in 8 or 16 bits there, too", arguments: [("promote", "q8_0"), ("16bit", "BF16")])
  func lostInBlocks(way: String, type: String) throws {
    try json(["quantize", stories, "-o", folder.file("base.gguf"), "--gguf-type", "q4_0"])
    let merge = ["merge", "--base", folder.file("base.gguf"), "--adapter", Self.adapter, "--any-base", "--gguf-type", "q4_0", "-o"]
    let refused = try Program.run(merge + [folder.file("m.gguf")])
    #expect(refused.code == 6 && refused.errors.contains("promote or 16bit") && PathKind(folder.file("m.gguf")) == .nothing, "\(refused.errors)")
    let shaped = try Program.run(merge + [folder.file("m.gguf"), "--when-lost", "shape"])
    #expect(shaped.code == 2 && shaped.errors.contains("--when-lost promote"), "\(shaped.errors)")
    let merged = try json(merge + [folder.file("m.gguf"), "--when-lost", way])
    #expect((merged["survival_worst"]?.double ?? 0) >= 0.5)
    let tensors = try json(["inspect", folder.file("m.gguf")])["tensors"]?.array ?? []
    func count(_ name: String) -> Int { tensors.count { [$0["codec"]?.string, $0["dtype"]?.string].contains(name) } }
    #expect(count(type) > 0, "\(tensors.map { $0.text() }.joined(separator: "\n"))")
    #expect(try json(["verify", folder.file("m.gguf")])["tensors"]?.int == tensors.count)
  }

  @Test("--bnb-rules also makes the 4-bit form that --trained-on names")
  func rulesOfTheFormTrainedOn() throws {
    // A block of zeros is no zeros by the CUDA rule, once its scale is coded.
    var base = SafetensorsBuilder(), adapter = SafetensorsBuilder()
    base.add("model.layers.0.self_attn.q_proj.weight", [64, 64], (0..<4096).map { $0 < 64 ? 0 : Float($0 % 7) - 2 })
    adapter.add(random: "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", [1, 64])
    adapter.add(random: "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", [64, 1])
    try folder.write("base/model.safetensors", base.bytes)
    try folder.write("base/config.json", #"{"model_type": "llama"}"#)
    try folder.write("adapter/adapter_model.safetensors", adapter.bytes)
    try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 1}"#)
    let packed = folder.file("packed.nbl")
    try json(["quantize", folder.file("base"), "-o", packed, "--bnb-rules", "cuda"])
    let merge = ["merge", "--adapter", folder.file("adapter"), "--dtype", "fp32", "--format", "safetensors", "-o"]
    let wanted = try json(merge + [folder.file("wanted"), "--base", packed])
    let onForm = merge.dropLast() + ["--base", folder.file("base"), "--trained-on", "nf4", "-o"]
    #expect(try json(onForm + [folder.file("found"), "--bnb-rules", "cuda"])["identity"] == wanted["identity"])
    #expect(try json(onForm + [folder.file("other")])["identity"] != wanted["identity"])
  }

  @Test(
    "usage errors are one line and 2",
    arguments: [
      ["--base", llama, "-o", "OUT"], ["--base", llama, "--adapter", lora],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--min-survival", "nan"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--min-survival", "1.5"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--min-survival=-0.1"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--dtype", "int8"],
      ["--base", llama, "--adapter", lora, "-o", "OUT.nbl", "--dtype", "bf16"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--trained-on", "int3"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--trained-on", "bf16"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--trained-on", "nf4:group=32"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--trained-on", "int4:no-double-quant"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--trained-on", "int8:mse"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--when-lost", "keep", "--format", "bnb"],
      ["--base", llama, "--adapter", lora, "-o", "OUT.nbl", "--when-lost", "keep"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--codec", "bf16"],
      ["--base", llama, "--adapter", lora + ":x", "-o", "OUT"], ["--base", llama, "--adapter", "", "-o", "OUT"],
      ["--base", llama, "--adapter", fixture("adapters/roberta_cls") + ":inf", "-o", "OUT"],
      ["--base", llama, "--adapter", lora, "-o", "OUT", "--when-lost", "pray"],
    ])
  func usage(_ arguments: [String]) throws {
    let result = try Program.run(["merge"] + arguments.map { $0.replacingOccurrences(of: "OUT", with: folder.file("out")) })
    #expect(result.code == 2, "\(result.errors)")
    #expect(result.errorLines.count == 1, "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test(
    "an adapter that does not fit is 5, one that is lost is 6, one that is not there is 3; nothing is left",
    arguments: [
      (fixture("adapters/gpt2_c_attn"), Int32(5), "match nothing"), (lora + ":0.001", 6, "would keep less than 0.5"),
      (fixture("adapters/none"), 3, "no such folder"), (llama, 3, "a model folder"),
    ])
  func refused(_ adapter: String, _ code: Int32, _ words: String) throws {
    let result = try Program.run(
      ["merge", "--base", fixture("models/llama-bnb-nf4-dq"), "--adapter", adapter, "-o", folder.file("out"), "-q"])
    #expect(result.code == code, "\(result.errors)")
    #expect(result.errorLines.count == 1 && result.errors.contains(words), "\(result.errors)")
    #expect(folder.contents.isEmpty)
  }

  @Test("a change smaller than the rounding noise is called lost, whatever share the noise makes of it")
  func noise() throws {
    let merge = ["merge", Self.llama, "-o", folder.file("out.nbl"), "--force", "--adapter"]
    let lost = try Program.run(merge + [Self.lora + ":0.01"])
    #expect(lost.code == 0 && lost.output.hasPrefix("merged: the adapter's change is lost in rounding noise, which is "), "\(lost.output)")
    #expect(lost.output.contains(" %: a measure of the noise") && lost.errors.contains("the rounding noise is larger than the change"), "\(lost.errors)")
    let report = try json(merge + [Self.lora + ":0.01"])
    #expect(report["lost_in_noise"] == true && (report["survival"]?.double ?? 0) > 1.05)
    // Of a change larger than the noise 100 % and a little more is all of it.
    #expect(try json(merge + [Self.lora])["lost_in_noise"] == false)
    let all = try Program.run(merge + [Self.lora + ":0.1", "-q"]).output
    #expect(all.hasPrefix("merged: all of the adapter's change survives, worst 9"), "\(all)")
    let inspected = try Program.run(["adapter", "inspect", Self.lora, "--base", Self.llama, "-q"]).output
    #expect(inspected.contains("\npacked anew     keeps 9"), "\(inspected)")
  }

  @Test("an adapter trained on int4 and int8 meets their values by name, and by what it says itself", arguments: [
    ("int4:group=row:symmetric:mse", ["int4", "--group-size", "row", "--symmetric", "--encoder", "mse"]),
    ("int4:group=row", ["int4", "--group-size", "row"]), ("int8", ["int8"]),
  ])
  func trainedOn(_ name: String, _ packing: [String]) throws {
    let (packed, adapter) = (folder.file("packed.nbl"), folder.file("adapter"))
    try json(["quantize", stories, "-o", packed, "--codec"] + packing)
    let merge = ["merge", "--adapter", Self.adapter, "--format", "safetensors", "--dtype", "fp32", "-o"]
    let wanted = try json(merge + [folder.file("wanted"), "--base", packed])
    let found = try json(merge + [folder.file("found"), "--base", stories, "--trained-on", name])
    #expect(wanted["identity"] == found["identity"])
    let rows = try folder.write("rows.jsonl", #"{"text": "One day"}"# + "\n")
    try json(["finetune", packed, rows, "-o", adapter, "--max-steps", "1", "-q"])
    let own = try json(["merge", stories, adapter, "-o", folder.file("own"), "--min-survival", "0"])
    #expect(own["trained_on"]?.string?.hasPrefix(name.prefix(4)) == true, "\(own)")
  }

  @Test("a compressed-tensors base is kept with its adapter, though the folder is of another format")
  func kept() throws {
    try json(["quantize", Self.llama, "-o", folder.file("ct"), "--format", "compressed-tensors", "--group-size", "64"])
    let kept = try json(["merge", folder.file("ct"), Self.lora + ":0.01", "-o", folder.file("kept"), "--when-lost", "keep"])
    #expect(kept["kept"]?.array?.count == 4 && PathKind(folder.file("kept/model.nbl")) == .file)
  }

  @Test("a compressed base is merged into, though it cannot be compared in place")
  func compressed() throws {
    try json(["quantize", Self.llama, "-o", folder.file("z.nbl"), "--keep", ".", "--compress", "zstd"])
    let report = try json(["merge", "--base", folder.file("z.nbl"), "--adapter", Self.lora, "-o", folder.file("out.nbl")])
    #expect(report["not_checked"]?.int == 4)
    try json(["quantize", Self.llama, "-o", folder.file("plain.nbl"), "--keep", "."])
    let plain = try json(["merge", "--base", folder.file("plain.nbl"), "--adapter", Self.lora, "-o", folder.file("same.nbl")])
    #expect(report["identity"] == plain["identity"])
    #expect(plain["checked"]?.int == 4)
  }

  @Test("a merge that rounding would undo names the ways out")
  func waysOut() throws {
    let result = try Program.run(
      [
        "merge", "--base", fixture("models/llama-bnb-nf4-dq"), "--adapter", Self.lora + ":0.001", "-o", folder.file("out.nbl"),
        "-q",
      ])
    #expect(result.code == 6)
    for way in ["--base ORIGINAL", "--when-lost promote, 16bit, shape, calibrated or keep"] {
      #expect(result.errors.contains(way), "\(result.errors)")
    }
  }

  @Test("neither the base nor an adapter is overwritten")
  func inputs() throws {
    for name in ["base", "adapter"] {
      try FileManager.default.copyItem(atPath: name == "base" ? Self.llama : Self.lora, toPath: folder.file(name))
    }
    for output in ["base", "adapter", "adapter/adapter_model.safetensors"] {
      for more in [[], ["--trained-on", "nf4"]] {
        let result = try Program.run(
          ["merge", "--base", folder.file("base"), "--adapter", folder.file("adapter"), "-o", folder.file(output), "--force"]
            + more)
        #expect(result.code == 2, "\(result.errors)")
      }
    }
    #expect(
      try bytes(of: folder.file("adapter/adapter_model.safetensors")) == bytes(of: Self.lora + "/adapter_model.safetensors"))
    #expect(try bytes(of: folder.file("base/model.safetensors")) == bytes(of: Self.llama + "/model.safetensors"))
    #expect(folder.contents == ["adapter", "base"])
  }

  @Test("fuse and export-lora are other names for it; a plan writes nothing")
  func aliases() throws {
    for verb in ["fuse", "export-lora"] {
      #expect(try Program.run([verb, "--base", Self.llama, "--adapter", Self.lora, "-o", folder.file(verb)]).code == 0)
    }
    let plan = try Program.run([
      "plan", "merge", "--base", Self.llama, "--adapter", Self.lora, "-o", folder.file("plan"), "--trained-on", "nf4",
    ])
    #expect(plan.code == 0, "\(plan.errors)")
    #expect(folder.contents == ["export-lora", "fuse"])
  }
}
