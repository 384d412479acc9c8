import Foundation
import NibbleCore
import TestSupport
import Testing

@Suite("Optimizers and schedules by flag")
struct OptimizerCommandTests {
  let runs = FinetuneCommandTests()

  func run(_ output: String, _ more: [String]) throws -> Program.Result {
    try Program.run(runs.arguments(output, ["--max-steps", "3"] + more))
  }

  @Test("a name of no optimizer or schedule is a usage error with the name that was meant", arguments: [
    (["--optimizer", "adamww"], "did you mean adamw?"), (["--optimizer", "adamw_8bt"], "did you mean adamw-8bit?"),
    (["--optimizer", "rmsprop"], "the optimizers are adamw, adamw-8bit, adam, "), (["--optimizer", "adafactor-8bit"], "not kept in 8 bits"),
    (["--lr-scheduler", "cosin"], "did you mean cosine?"), (["--lr-scheduler", "cosine_with_restart"], "did you mean cosine_with_restarts?"),
    (["--lr-scheduler", "step"], "the schedules are constant, linear, "),
    (["--optimizer", "schedule_free_adamw", "--lr-scheduler", "linear"], "has no schedule"), (["--optimizer", "sgd-8bit"], "needs --momentum"),
    (["--optimizer", "schedule-free-adamw", "--adam-beta1", "0"], "--adam-beta1"), (["--adam-beta2", "1"], "not from 0 to below 1"),
    (["--lr-scheduler", "polynomial", "--lr-end", "1"], "--lr-end"), (["--lr-end", "nan"], "--lr-end"), (["--lr-cycles", "0"], "--lr-cycles"),
    (["--lr-least", "1.5"], "--lr-least"), (["--lr-decay", "square"], "--lr-decay"), (["--lr-decay-steps", "0"], "--lr-decay-steps"),
    (["--label-smoothing", "1"], "--label-smoothing"), (["--label-smoothing", "nan"], "--label-smoothing"),
    (["--neftune-noise-alpha", "-1"], "--neftune-noise-alpha"), (["--neftune-noise-alpha", "inf"], "--neftune-noise-alpha"),
    (["--learning-rate-pattern", "lora_A"], "REGEX=NUMBER"), (["--learning-rate-pattern", "lora_A=-1"], "not a learning rate"),
    (["--learning-rate-pattern", "zzz=1"], "decides nothing"), (["--no-decay", "("], "regular expression"), (["--no-decay", "zzz"], "matches none"),
    (["--as-published", "--dry-run"], "not packed"),
  ])
  func usage(_ flags: [String], _ saying: String) throws {
    let result = try run("out", flags)
    #expect(result.code == 2 && result.errorLines.count == 1 && result.errors.contains(saying), "\(result.code) \(result.errors)")
    #expect(runs.folder.contents == ["train.jsonl"])
  }

  @Test("a configuration as axolotl users write it, and the run.yaml of the run, give the same adapter")
  func configuration() throws {
    let yaml = try runs.folder.write(
      "run.yml", """
        optim: paged_lion_8bit
        lr_scheduler_type: cosine_with_restarts
        num_cycles: 2
        lr: 1e-3
        neftune_noise_alpha: 5
        label_smoothing_factor: 0.1
        loraplus_lr_ratio: 4
        weight_decay: 0.1
        no_decay: [lora_B]
        learning_rate_pattern: ["q_proj.*lora_A=1e-4", "v_proj=2e-3"]
        """)
    let flags = [
      "--optimizer", "lion-8bit", "--lr-scheduler", "cosine-with-restarts", "--lr-cycles", "2", "--learning-rate", "1e-3", "--neftune-noise-alpha",
      "5", "--label-smoothing", "0.1", "--loraplus-ratio", "4", "--weight-decay", "0.1", "--no-decay", "lora_B", "--learning-rate-pattern",
      "q_proj.*lora_A=1e-4", "--learning-rate-pattern", "v_proj=2e-3",
    ]
    let first = try run("flags", flags)
    #expect(first.code == 0 && first.errors.isEmpty, "\(first.errors)")
    let second = try run("yaml", ["--config", yaml])
    #expect(second.code == 0 && second.errors.isEmpty, "\(second.errors)")
    let third = try Program.run(["finetune", "--config", runs.folder.file("yaml/run.yaml"), "-o", runs.folder.file("again"), "-q"])
    #expect(third.code == 0, "\(third.errors)")
    #expect(try runs.adapter("flags") == runs.adapter("yaml") && runs.adapter("flags") == runs.adapter("again"))
    #expect(try String(contentsOfFile: runs.folder.file("yaml/run.yaml"), encoding: .utf8).contains("\npaged: true\n"))
    // How states lie is no part of the run, the optimizer is.
    let resumed = try run("yaml", flags + ["--max-steps", "4", "--resume"])
    #expect(resumed.code == 0, "\(resumed.errors)")
    let other = try run("yaml", ["--config", yaml, "--optimizer", "lion", "--resume"])
    #expect(other.code == 2 && other.errors.contains("begun with --optimizer lion-8bit, not with --optimizer lion"), "\(other.errors)")
  }

  @Test("flags without effect are warned of")
  func ignored() throws {
    let result = try Program.run(
      runs.arguments("out", ["--max-steps", "1", "--optimizer", "adafactor", "--adam-beta1", "0.5", "--momentum", "0.9", "--lr-power", "2", "--no-decay", "norms"])
        .filter { $0 != "-q" })
    for flag in ["--adam-beta1", "--momentum", "--lr-power", "--no-decay"] { #expect(result.errors.contains(flag), "\(result.errors)") }
    #expect(result.code == 0)
  }

  @Test("a plan says what each optimizer keeps, in memory and in a file", arguments: [
    ("adamw", 8.0, 0.0), ("lion", 4, 0), ("sgd", 0, 0), ("schedule-free-adamw", 8, 0), ("adamw-paged", 8, 8),
  ])
  func plan(_ name: String, _ each: Double, _ paged: Double) throws {
    let result = try Program.run(["plan"] + runs.arguments("out", ["--optimizer", name, "--json"]))
    let json = try JSON.parse(result.output)
    let numbers = Double(try #require(json["trained"]?.int) / 4)
    // Tensors are padded to 64 bytes, of which these small factors have none to spare.
    let inMemory = Double(try #require(json["optimizer"]?.int)) / numbers
    // While states are paged, a few tensors' are in memory.
    #expect(paged == 0 ? inMemory == each : inMemory > 0 && inMemory < each, "\(result.output)")
    #expect(Double(json["paged_states"]?.int ?? 0) / numbers == paged)
  }

  @Test("a plan prints the published table beside its own, and what that leaves out")
  func published() throws {
    let base = fixture("models/llama-bnb-nf4-dq")
    let arguments = try runs.arguments("out", ["--as-published"]).map { $0 == FinetuneCommandTests.llama ? base : $0 }
    let text = try Program.run(["plan"] + arguments)
    #expect(text.code == 0, "\(text.errors)")
    for words in ["as published", "trainable", "leaves out the activations"] { #expect(text.output.contains(words), "\(text.output)") }
    let json = try JSON.parse(Program.run(["plan"] + arguments + ["--json"]).output)
    #expect(json["as_published"]?["total"]?.double != nil)
  }
}
