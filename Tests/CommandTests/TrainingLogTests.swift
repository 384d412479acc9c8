import Foundation
import NibbleCore
import TestSupport
import Testing

@testable import nibble

@Suite("What a training run says")
struct TrainingLogTests {
  /// Numbers of loss, speed and time as `#`; steps and rates stay.
  private func masked(_ text: String) -> String {
    text.replacing(#/loss [0-9.]+/#, with: "loss #").replacing(#/[0-9]+ tok\/s/#, with: "# tok/s").replacing(#/eta [0-9]+:[0-9]{2}/#, with: "eta #")
      .replacing(#/[0-9.]+ (s|MB|kB|GB)\b/#, with: "#").replacing(#/, [0-9]+ tokens a second/#, with: ", # tokens a second")
  }

  @Test("a line every few steps, the validation before and after, and a summary that has both")
  func text() throws {
    let folder = try ExampleFolder.copy()
    let run = "nibble finetune MODEL rows.jsonl --valid rows.jsonl -o out --batch-size 2 --eval-steps 4"
    let result = try folder.shell(run + " --max-steps 8 --log-every 3 --warmup-steps 2")
    #expect(
      masked(result.errors) == """
        training 46240 parameters of 35 modules, 17.782 % of 260032
        step 0/8  validation loss #
        step 3/8  loss #  lr 2.0e-4  # tok/s  eta #
        step 4/8  validation loss #
        step 6/8  loss #  lr 1.0e-4  # tok/s  eta #
        step 8/8  loss #  lr 3.3e-5  # tok/s  eta #
        step 8/8  validation loss #

        """)
    #expect(
      masked(result.output) == """
        output             out
        trained            46240 parameters
        rows               4, 28 tokens, 12 learned, 0 padded, 0 cut off
        steps              8, smoothed loss #
        validation before  loss #
        validation after   loss #
        time               #, # tokens a second
        peak memory        #

        """)
    let quiet = try folder.shell(run + " --max-steps 8 -q")
    #expect(quiet.code == 0 && quiet.errors.isEmpty)
  }

  @Test("the loss of a line is the mean since the line before; the base's validation is what evaluate says of the base")
  func figures() throws {
    let folder = try ExampleFolder.copy()
    let result = try folder.shell("nibble finetune MODEL rows.jsonl --valid rows.jsonl -o out --batch-size 2 --max-steps 7 --log-every 4 --json")
    let rows = try String(decoding: bytes(of: folder.folder.file("out/metrics.jsonl")), as: UTF8.self).split(separator: "\n").map { try JSON.parse(String($0)) }
    let losses = rows.compactMap { $0["loss"]?.double }
    let lines = result.errorLines.filter { $0.contains("  loss ") }
    #expect(lines.count == 2 && lines[1].hasPrefix("step 7/7  loss \(decimal(losses[4...].reduce(0, +) / 3, 3))  "), "\(result.errors)")
    let document = try JSON.parse(result.output)
    // The bias-corrected mean, by its definition.
    let weights = losses.indices.map { pow(0.9, Double(losses.count - 1 - $0)) }
    let mean = zip(losses, weights).reduce(0) { $0 + $1.0 * $1.1 } / weights.reduce(0, +)
    #expect(abs(try #require(document["loss"]?.double) - mean) < 1e-9)
    let before = try #require(document["valid_loss_before"]?.double)
    #expect(rows.first?["step"]?.int == 0 && rows.first?["valid_loss"]?.double == before)
    let base = try JSON.parse(folder.shell("nibble evaluate MODEL rows.jsonl --task lm --json").output)
    #expect(abs(try #require(base["loss"]?.double) - before) < 1e-5)
    #expect(try #require(document["valid_loss"]?.double) < before)
  }

  @Test("intervals, times and rates", arguments: [(1, 1), (20, 1), (21, 2), (60, 5), (500, 50), (1000, 50), (1001, 100), (123_456, 10_000)])
  func intervals(_ steps: Int, _ interval: Int) {
    #expect(TrainingLog.interval(steps) == interval)
    #expect(TrainingLog.clock(79.2) == "1:20" && TrainingLog.clock(7261) == "2:01:01" && TrainingLog.clock(0) == "0:00" && TrainingLog.clock(.nan) == "?")
    #expect(TrainingLog.scientific(2e-4) == "2.0e-4" && TrainingLog.scientific(9.96e-5) == "1.0e-4" && TrainingLog.scientific(0) == "0")
  }
}
