import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

@Suite("Ten steps")
struct StepTests {
  @Test(
    "are PyTorch's: loss, gradient norm, learning rate, final adapter", arguments: ["lora_fp32", "dora_fp32", "qlora_nf4dq"],
    [0.0, 0.01])
  func golden(_ name: String, _ decay: Double) throws {
    let golden = try TensorFile(fixture("train/\(name)_wd\(decay).safetensors"))
    func floats(_ name: String) throws -> [Float] { try golden.floats(#require(golden.tensor(name))) }
    let model = try Model(fixture("models/" + (name.hasPrefix("qlora") ? "llama-bnb-nf4-dq" : "llama")), threads: 2)
    let adapter = name.hasPrefix("dora") ? "dec_dora" : "dec_lora_qv"
    let trained = try Trained(AdapterFile.open(fixture("adapters/" + adapter)), on: model)
    let pass = TrainingPass(model, trained)
    var options = OptimizerOptions()
    (options.learningRate, options.weightDecay, options.maximumNorm) = (0.01, decay, 0.3)
    let optimizer = Optimizer(options, trained.tensors, team: Team(threads: 2))
    let schedule = Schedule(.linear, warmup: 1, steps: 10)
    let ids = try golden.integers(#require(golden.tensor("input_ids")))
    let (losses, norms, rates) = (try floats("loss"), try floats("grad_norm"), try floats("lr"))
    for step in 0..<10 {
      optimizer.clearGradients()
      var loss = 0.0
      for micro in 0..<2 {
        let rows = (0..<2).map { row in Array(ids[((step * 2 + micro) * 2 + row) * 16..<((step * 2 + micro) * 2 + row + 1) * 16])
        }
        loss += try pass.language(rows.map { TokenRun($0) }, labels: rows, scale: 0.5).loss / 2
      }
      let norm = optimizer.clip()
      let rate = options.learningRate * schedule.factor(step)
      try optimizer.step(rate: rate)
      #expect(abs(loss - Double(losses[step])) <= 1e-5 * Double(losses[step]))
      #expect(abs(norm - Double(norms[step])) <= 1e-4 * Double(norms[step]))
      #expect(abs(rate - Double(rates[step])) <= 1e-9)
    }
    for tensor in trained.tensors {
      let expected = try floats("final/" + tensor.name)
      for (x, y) in zip(tensor.values.values, expected) { #expect(abs(x - y) <= 1e-5, "\(tensor.name)") }
    }
  }

  @Test("rates rise, fall and stay as they are asked to")
  func schedules() {
    let linear = Schedule(.linear, warmup: 2, steps: 6)
    #expect((0..<6).map(linear.factor) == [0, 0.5, 1, 0.75, 0.5, 0.25])
    #expect(Schedule(.constant, warmup: 1, steps: 3).factor(2) == 1)
    #expect(abs(Schedule(.cosine, steps: 4).factor(2) - 0.5) < 1e-12)
  }
}
