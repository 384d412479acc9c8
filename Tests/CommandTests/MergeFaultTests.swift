import Foundation
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("Merges that must not happen as asked")
struct MergeFaultTests {
  let folder = TemporaryFolder()
  static let llama = fixture("models/llama")
  static let lora = fixture("adapters/dec_lora_qv")
  static let dora = fixture("adapters/dec_dora")

  func refuse(_ arguments: [String], _ code: Int32, _ saying: String = "", leaving: [String] = []) throws {
    let result = try Program.run(arguments + ["-q"])
    #expect(result.code == code, "\(arguments) \(result.errors)")
    #expect(result.errorLines.count == 1 && result.errors.contains(saying), "\(result.errors)")
    #expect(folder.contents == leaving)
  }

  func merge(_ more: [String]) -> [String] { ["merge", "--base", Self.llama] + more }

  /// A copy of an adapter in the folder.
  func copied(_ adapter: String, as name: String = "adapter") throws -> String {
    try FileManager.default.copyItem(atPath: adapter, toPath: folder.file(name))
    return folder.file(name)
  }

  @Test("inputs are never what is replaced", arguments: [["--when-lost", "keep", "--format", "nbl"], []])
  func inputs(_ more: [String]) throws {
    let adapter = try copied(Self.lora)
    try refuse(merge(["--adapter", adapter, "-o", adapter, "--force"] + more), 2, "input", leaving: ["adapter"])
    try refuse(["adapter", "combine", adapter, Self.lora, "-o", adapter, "--force"], 2, "input", leaving: ["adapter"])
  }

  @Test("DoRA is not said with factors only")
  func dora() throws {
    try refuse(["adapter", "combine", Self.dora, "-o", folder.file("c")], 2, "DoRA")
    try refuse(
      merge([
        "--adapter", Self.dora + ":0.5", "-o", folder.file("k"), "--format", "nbl", "--when-lost", "keep", "--min-survival", "1",
      ]), 2,
      "DoRA")
  }

  @Test("what replaces a weight is of a type that can", arguments: ["F8_E4M3", "U8", "BOOL", "I8"])
  func types(_ dtype: String) throws {
    var tensors = SafetensorsBuilder()
    let query = "base_model.model.model.layers.0.self_attn."
    tensors.add(random: query + "v_proj.lora_A.weight", [2, 64])
    tensors.add(random: query + "v_proj.lora_B.weight", [32, 2])
    tensors.add(query + "q_proj.weight", dtype, [64, 64], [UInt8](repeating: 1, count: 4096))
    _ = try folder.write("adapter/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write("adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#)
    for output in ["o.nbl", "o"] {
      try refuse(merge(["--adapter", folder.file("adapter"), "-o", folder.file(output)]), 5, dtype, leaving: ["adapter"])
    }
  }

  @Test("ranks, codecs and folders that make no sense")
  func nonsense() throws {
    let both = ["--adapter", Self.lora, "--adapter", Self.lora]
    try refuse(merge(both + ["--method", "svd", "--svd-rank", "1000000", "-o", folder.file("o")]), 2, "--svd-rank")
    var big = SafetensorsBuilder()
    big.add("base_model.model.layer.lora_A.weight", [1, 2], [1e38, 1])
    big.add("base_model.model.layer.lora_B.weight", [2, 1], [1, 1])
    _ = try folder.write("big/adapter_model.safetensors", big.bytes)
    _ = try folder.write("big/adapter_config.json", #"{"peft_type": "LORA", "r": 1, "lora_alpha": 1}"#)
    try refuse(["adapter", "combine", folder.file("big:10"), "-o", folder.file("o")], 6, "float32", leaving: ["big"])
    try FileManager.default.removeItem(atPath: folder.file("big"))
    let packed = fixture("models/llama-bnb-nf4-dq")
    try refuse(["merge", "--base", packed, "--codec", "fp4", "--adapter", Self.lora, "-o", folder.file("o")], 2, "--codec")
    try refuse(
      ["merge", "--base", packed, "--trained-on", "nf4", "--adapter", Self.lora, "-o", folder.file("o"), "--dry-run"], 2,
      "packed already")
    try refuse(merge(["--adapter", Self.lora, "--when-lost", "keep", "-o", folder.file("o.nbl"), "--dry-run"]), 2, "folder")
  }

  @Test(
    "configurations of the wrong types",
    arguments: [
      #""bias": true"#, #""rank_pattern": {"q_proj": 4.5}"#, #""modules_to_save": "score""#, #""layers_to_transform": "0""#,
      #""lora_alpha": "NaN""#, #""r": 0"#, #""target_modules": "(a+)+$""#, #""rank_pattern": {"(": 4}"#,
    ])
  func configurations(_ setting: String) throws {
    let adapter = try copied(Self.lora)
    let place = adapter + "/adapter_config.json"
    var text = String(decoding: try bytes(of: place), as: UTF8.self)
    let key = setting.split(separator: ":")[0]
    text = text.replacingOccurrences(of: key + ":", with: "\"was \(key.dropFirst()):")
    text = text.replacingOccurrences(of: #""peft_type""#, with: setting + #", "peft_type""#)
    if setting.contains("target_modules") {
      // Long enough for a bomb to go off.
      text = text.replacingOccurrences(of: "(a+)+$", with: "(.*.*)*x")
    }
    try Data(text.utf8).write(to: URL(fileURLWithPath: place))
    let result = try Program.run(merge(["--adapter", adapter, "-o", folder.file("o"), "-q"]))
    #expect([0, 3, 5].contains(result.code), "\(result.errors)")
    if !setting.contains("target_modules") {
      #expect(
        result.code == 3 && result.errorLines.count == 1 && result.errors.contains("adapter_config.json"), "\(result.errors)")
      #expect(folder.contents == ["adapter"])
    }
  }

  @Test("a base without a configuration is merged into a folder of weights, and checked")
  func weightsAlone() throws {
    for format in ["safetensors", "bnb"] {
      let result = try Program.run([
        "merge", "--base", Self.llama + "/model.safetensors", "--adapter", Self.lora, "-o", folder.file(format), "--format",
        format, "--json",
      ])
      #expect(result.code == 0, "\(result.errors)")
      #expect(try JSON.parse(result.output)["checked"]?.int == 4)
    }
  }

  @Test("what rows of bytes would lose is kept by other means", arguments: ["16bit", "keep"])
  func rowsOfBytes(_ way: String) throws {
    #expect(try Program.run(["quantize", Self.llama, "-o", folder.file("rows.nbl"), "--codec", "int8", "-q"]).code == 0)
    let result = try Program.run([
      "merge", "--base", folder.file("rows.nbl"), "--adapter", Self.lora + ":0.01", "-o", folder.file("out"), "--format", "nbl",
      "--when-lost", way, "--json", "--min-survival", "0.9",
    ])
    #expect(result.code == 0, "\(result.errors)")
    let report = try JSON.parse(result.output)
    if way == "keep" {
      #expect(report["kept"]?.array?.isEmpty == false)
    } else {
      #expect(report["survival_worst"]?.double ?? 0 > 0.9)
    }
  }

  @Test("a thousand patterns for a thousand modules are quickly distinguished")
  func patterns() throws {
    var model = SafetensorsBuilder(), tensors = SafetensorsBuilder()
    let count = 1500
    for index in 0..<count {
      model.add("layers.\(index).proj.weight", [4, 4], [Float](repeating: 0.5, count: 16))
      tensors.add("base_model.model.layers.\(index).proj.lora_A.weight", [2, 4], [Float](repeating: 0.1, count: 8))
      tensors.add("base_model.model.layers.\(index).proj.lora_B.weight", [4, 2], [Float](repeating: 0.1, count: 8))
    }
    let ranks = (0..<count).map { #""layers.\#($0).proj": 2"# }.joined(separator: ", ")
    _ = try folder.write("base.safetensors", model.bytes)
    _ = try folder.write("adapter/adapter_model.safetensors", tensors.bytes)
    _ = try folder.write(
      "adapter/adapter_config.json", #"{"peft_type": "LORA", "r": 8, "lora_alpha": 2, "rank_pattern": {\#(ranks)}}"#)
    let result = try Program.run([
      "merge", "--base", folder.file("base.safetensors"), "--adapter", folder.file("adapter"), "-o", folder.file("o.safetensors"),
      "-q",
    ])
    #expect(result.code == 0, "\(result.errors)")
  }
}
