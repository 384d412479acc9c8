import Foundation
import NibbleCore
import NibbleFormats
import TestSupport
import Testing

@Suite("calibrate, and what reads its statistics")
struct StatisticsCommandTests {
  let folder = TemporaryFolder()
  private static let stories = fixture("stories260K")
  private static let text = CalibrateCommandTests.text

  private func calibrate(_ name: String, _ more: [String] = []) throws -> Program.Result {
    try Program.run(["calibrate", Self.stories, "--data", Self.text, "--tokens", "800", "-o", folder.file(name)] + more)
  }

  @Test("Statistics stand for a text in quantize and merge, and name what they are of")
  func statistics() throws {
    let made = try calibrate("s.safetensors")
    #expect(made.code == 0 && made.output.contains("moments of the inputs of 35 layers") && made.output.contains("800 tokens of text"))
    #expect(made.errors.contains("800 tokens are few for moments of 172 inputs"))
    let path = folder.file("a.nbl")
    let packed = try Program.run(
      ["quantize", Self.stories, "-o", path, "--encoder", "calibrated", "--statistics", folder.file("s.safetensors"), "--correction", "4", "--json"])
    let said = try JSON.parse(packed.output)["calibration"]
    #expect(packed.code == 0 && said?["source"]?.string == "statistics" && said?["calibrated_tensors"]?.int ?? 0 > 25)
    #expect(said?["output_error"]?.double ?? 1 < said?["output_error_mse"]?.double ?? 0)
    let record = try Checkpoint.open(path).provenance?["options"]?["calibration"]
    #expect(record?["source"]?.string == "statistics" && record?["tokens"]?.int == 800)
    // A merge into what was packed from the same model.
    let merge = [
      "merge", "--base", path, "--adapter", folder.file("a-correction"), "-o", folder.file("m.nbl"), "--when-lost", "calibrated", "--min-survival",
      "0", "--json",
    ]
    let merged = try Program.run(merge + ["--statistics", folder.file("s.safetensors")])
    #expect(merged.code == 0, "\(merged.errors)")
    let tensors = try JSON.parse(merged.output)["changed"]?.array ?? []
    #expect(!tensors.isEmpty && tensors.allSatisfy { $0["of_outputs"]?.bool == true })
  }

  @Test("A text and the model's own; a share that is none is refused")
  func blend() throws {
    let made = try calibrate("s.safetensors", ["--own-text", "0.5"])
    #expect(made.code == 0 && made.output.contains("800 tokens, 400 of them the model's own"), "\(made.output)\(made.errors)")
    let refused = try calibrate("t.safetensors", ["--own-text", "2"])
    #expect(refused.code == 2 && refused.errorLines.count == 1 && refused.errors.contains("--own-text 2.0 is not between 0 and 1"))
  }

  @Test("What does not go together is refused before any work")
  func refused() throws {
    #expect(try calibrate("s.safetensors", ["--diagonal", "-q"]).code == 0)
    let file = folder.file("s.safetensors"), output = folder.file("o.nbl")
    let again = try calibrate("s.safetensors")
    #expect(again.code == 2 && again.errors.contains("--force"))
    let quantize = ["quantize", Self.stories, "-o", output]
    for (words, code, what) in [
      (quantize + ["--statistics", file], 2, "--statistics is for --encoder calibrated"),
      (quantize + ["--encoder", "calibrated", "--statistics", file, "--calibration", Self.text], 2, "stands for a text"),
      (quantize + ["--encoder", "calibrated", "--statistics", Self.stories + "/model.safetensors"], 3, "nibble calibrate"),
      (quantize + ["--encoder", "calibrated", "--statistics", folder.file("none")], 3, "none"),
      (["quantize", fixture("models/llama"), "-o", output, "--encoder", "calibrated", "--statistics", file], 5, "another model"),
      (["quantize", Self.stories, "-o", output, "--target-bits", "5", "--statistics", file], 2, "run a text"),
      (["merge", "--base", Self.stories, "--adapter", fixture("adapters/dec_lora_qv"), "-o", output, "--statistics", file], 2, "--when-lost calibrated"),
    ] {
      let result = try Program.run(words)
      #expect(Int(result.code) == code && result.errors.contains(what) && PathKind(output) == .nothing, "\(words): \(result.errors)")
    }
  }

  @Test("A calibration that is interrupted goes on, and leaves the same file")
  func resumed() throws {
    let words = ["--encoder", "calibrated", "--calibration", Self.text, "--calibration-tokens", "800", "-q"]
    #expect(try Program.run(["quantize", Self.stories, "-o", folder.file("whole.nbl")] + words).code == 0)
    let output = folder.file("a.nbl"), journal = folder.file(".a.nbl.nibble-codes")
    // What a kill leaves: some decided codes, and nothing visible.
    #expect(try Program.run(["quantize", Self.stories, "-o", output, "--resume", "--max-error", "0.0001"] + words).code == 6)
    let kept = try bytes(of: journal)
    try Data(kept.prefix(kept.count / 2)).write(to: URL(fileURLWithPath: journal))
    // While another process has it, nobody else writes in it.
    let holder = open(journal, O_RDWR)
    #expect(flock(holder, LOCK_EX | LOCK_NB) == 0)
    let second = try Program.run(["quantize", Self.stories, "-o", output, "--resume"] + words)
    #expect(second.code == 2 && second.errorLines.count == 1 && second.errors.contains("is being written by another process"), "\(second.errors)")
    #expect(try bytes(of: journal).count == kept.count / 2)
    close(holder)
    let result = try Program.run(["quantize", Self.stories, "-o", output, "--resume", "--json"] + words)
    let taken = try JSON.parse(result.output)["calibration"]?["resumed_tensors"]?.int ?? 0
    #expect(result.code == 0 && taken > 5, "\(result.errors)")
    #expect(try bytes(of: output) == bytes(of: folder.file("whole.nbl")) && PathKind(journal) == .nothing)
  }
}
