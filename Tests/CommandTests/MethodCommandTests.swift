import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Methods of the papers on the command line")
struct MethodCommandTests {
  let folder = TemporaryFolder()
  static let llama = fixture("models/llama")

  private func train(_ output: String, _ more: [String], base: String = llama) throws -> Program.Result {
    let lines = (0..<12).map { row in
      "{\"input_ids\": [\((0..<9).map { String(($0 * 31 + row * 17) % 250 + 3) }.joined(separator: ", "))]}"
    }
    let rows = try folder.write("train.jsonl", lines.joined(separator: "\n"))
    return try Program.run(
      ["finetune", "--base", base, "--data", rows, "-o", folder.file(output), "--batch-size", "2", "--max-steps", "3", "--learning-rate", "0.02"]
        + more)
  }

  private func config(_ name: String) throws -> JSON { try JSON.parse(try bytes(of: folder.file(name + "/adapter_config.json"))) }

  /// What `json` says of one run.
  private func json(_ arguments: [String]) throws -> JSON {
    let result = try Program.run(arguments + ["--json", "-q"])
    #expect(result.code == 0, "\(arguments) \(result.errors)")
    return try JSON.parse(result.output)
  }

  private func loss(_ base: String, _ more: [String] = []) throws -> Double {
    try #require(json(["evaluate", "--task", "lm", "--base", base, "--data", folder.file("train.jsonl")] + more)["loss"]?.double)
  }

  @Test(
    "train, say what they train, attach and merge to the same loss, and repeat from their record",
    arguments: [
      ("qalora", ["--qalora-group-size", "16"]), ("iec", []), ("qbara", ["--lambda", "4"]),
      ("qahira", ["--lambda-1", "8", "--lambda-2", "4"]),
    ] as [(String, [String])])
  func life(_ method: String, _ flags: [String]) throws {
    let result = try train("a", ["--method", method] + flags)
    #expect(result.code == 0, "\(result.errors)")
    // (64, 64), (64, 32) twice, (64, 64); (64, 128) twice, (128, 64); two layers.
    let shapes = [(64, 64), (64, 32), (64, 32), (64, 64), (64, 128), (64, 128), (128, 64)]
    let count = 2 * shapes.reduce(0) { sum, one in
      switch method {
      case "qalora": sum + 8 * (one.0 / 16 + one.1)
      case "iec": sum + 8 * (one.0 + one.1) + 2
      case "qbara": sum + 8 * (one.0 + one.1)
      default: sum + one.0 * one.1 / 32
      }
    }
    #expect(result.errors.contains("training \(count) parameters of 14 modules"), "\(result.errors)")
    let again = try Program.run(["finetune", "--config", folder.file("a/run.yaml"), "-o", folder.file("b"), "-q"])
    #expect(again.code == 0, "\(again.errors)")
    #expect(try bytes(of: folder.file("a/adapter_model.safetensors")) == bytes(of: folder.file("b/adapter_model.safetensors")))
    let (before, attached) = (try loss(Self.llama), try loss(Self.llama, ["--adapter", folder.file("a")]))
    #expect(abs(attached / before - 1) > 1e-4)
    _ = try json(["merge", Self.llama, folder.file("a"), "-o", folder.file("m")])
    #expect(try abs(loss(folder.file("m")) / attached - 1) < 1e-5)
    #expect(try Program.run(["inspect", folder.file("a")]).code == 0)
    let card = String(decoding: try bytes(of: folder.file("a/README.md")), as: UTF8.self)
    #expect(card.contains("PEFT does not have") == (method != "qalora"))
  }

  @Test("ranks by kind and by depth become PEFT's patterns; the scale stays where that is asked for")
  func ranks() throws {
    #expect(try train("kind", ["--rank-att", "4", "--rank-mlp", "2", "--lora-r", "8", "--lora-alpha", "16", "-q"]).code == 0)
    let kind = try #require(config("kind")["rank_pattern"]?.members)
    #expect(kind.count == 14 && kind.allSatisfy { $0.value.int == ($0.key.contains("mlp") ? 2 : 4) })
    #expect(try config("kind")["alpha_pattern"]?.members?.isEmpty == true)
    #expect(try train("depth", ["--rank-2", "4", "--lora-r", "8", "--lora-alpha", "16", "--fixed-scale", "-q"]).code == 0)
    let depth = try #require(config("depth")["rank_pattern"]?.members), alphas = try #require(config("depth")["alpha_pattern"]?.members)
    #expect(depth.count == 7 && depth.allSatisfy { $0.key.contains(#"layers\.1\."#) && $0.value.int == 4 })
    // 16 / 8 = 8 / 4
    #expect(alphas.count == 7 && alphas.allSatisfy { $0.value.double == 8 })
    #expect(try train("lambda", ["--method", "qbara", "--lambda-pattern", "mlp=4", "-q"]).code == 0)
    let lambdas = try #require(config("lambda")["qbara_lambda_pattern"]?.members)
    #expect(try config("lambda")["qbara_lambda"]?.int == 2 && lambdas.count == 6 && lambdas.allSatisfy { $0.value.int == 4 })
    #expect(try Program.run(["verify", folder.file("lambda")]).code == 0)
  }

  @Test("QA-LoRA takes the groups of an int4 base, and merges into its zeros")
  func groups() throws {
    let base = folder.file("b.nbl")
    _ = try json(["quantize", Self.llama, "-o", base, "--codec", "int4", "--group-size", "64", "--zeros", "float32"])
    #expect(try train("a", ["--method", "qalora", "-q"], base: base).code == 0)
    #expect(try config("a")["use_qalora"]?.bool == true && config("a")["qalora_group_size"]?.int == 64 && config("a")["qalora_gain"] == nil)
    let report = try json(["merge", base, folder.file("a"), "-o", folder.file("m.nbl")])
    #expect(report["changed"]?.array?.allSatisfy { $0["moved"]?.bool == true } == true)
    #expect((report["survival_worst"]?.double ?? 0) > 0.999)
    #expect(try abs(loss(folder.file("m.nbl")) / loss(base, ["--adapter", folder.file("a")]) - 1) < 1e-5)
    let text = try Program.run(["merge", base, folder.file("a"), "-o", folder.file("m.nbl"), "--force"])
    #expect(text.output.contains("zeros moved"), "\(text.output)")
    #expect(try Program.run(["verify", folder.file("m.nbl")]).code == 0)
  }

  @Test(
    "what does not fit is refused with its name, and nothing is written",
    arguments: [
      (["--method", "iec", "--lora-r", "6"], 5, "needs a rank that divides"), (["--method", "qbara", "--lambda", "3"], 5, "lambda that divides"),
      (["--method", "qalora", "--qalora-group-size", "48"], 5, "groups that divide"),
      (["--method", "qahira", "--lambda-1", "7"], 5, "tiles that divide"), (["--lambda", "2"], 2, "--lambda does not go with --method lora"),
      (["--method", "qbara", "--lambda-pattern", "mlp=x"], 2, "not a lambda"),
      (["--rank-att", "4", "--rank-1", "2"], 2, "by kind and by depth"), (["--rank-mlp", "0"], 2, "--rank-mlp 0"),
    ] as [([String], Int32, String)])
  func refused(_ flags: [String], _ code: Int32, _ message: String) throws {
    let result = try train("a", flags)
    #expect(result.code == code && result.errors.contains(message) && result.errorLines.count == 1, "\(result.errors)")
    if code == 5 { #expect(result.errors.contains("model.layers.0.self_attn.q_proj") || result.errors.contains("layers.0.")) }
    #expect(PathKind(folder.file("a")) == .nothing)
  }
}
