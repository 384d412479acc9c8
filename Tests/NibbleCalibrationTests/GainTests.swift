import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleEvaluation
import NibbleFormats
import NibbleModels
import NibbleQuant
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("Calibrated models")
struct GainTests {
  let folder = TemporaryFolder()

  private func packed(
    _ model: String, _ name: String, _ windows: [[Int]]? = nil, rules: [PackingRule] = [], threads: Int = 2,
    encoder: CalibrationOptions.Encoder = .calibrated,
    _ change: (inout QuantizeOptions) -> Void = { _ in }
  ) throws -> (path: String, report: CalibrationReport?) {
    let source = try Checkpoint.open(fixture(model))
    var options = QuantizeOptions()
    options.rules = rules
    options.encoder = windows == nil ? .absmax : .mseSigned
    change(&options)
    let path = folder.file(name + ".nbl")
    var job = try StreamJob.quantize(source, options, to: OutputSpec(path: path, format: nil, default: .nbl))
    job.threads = threads
    let open = try Model(source, precision: .f32, team: Team(threads: threads))
    var settings = CalibrationOptions()
    settings.encoder = encoder
    let report = try windows.map { try job.calibrate(with: open, $0, settings) }
    _ = try job.run()
    return (path, report)
  }

  /// KL to the float model over windows.
  private func divergence(_ path: String, _ model: String, _ windows: [[Int]]) throws -> Double {
    var perplexity = Perplexity()
    perplexity.context = 96
    let (own, float) = (try Model(path, threads: 2), try Model(fixture(model), threads: 2))
    return try perplexity.run(windows, mark: 1, model: own, comparedTo: float).comparison?.divergence.value ?? .nan
  }

  /// Texts the float model writes, some to calibrate with and others to judge on.
  private func texts() throws -> (calibration: [[Int]], test: [[Int]]) {
    let model = try Model(fixture("stories260K"), threads: 2)
    func text(_ tokens: Int, _ seed: UInt64) throws -> [[Int]] {
      try CalibrationText(writtenBy: model, from: [.init([1])], tokens: tokens, seed: seed, ends: [2]).windows
    }
    return (try text(2048, 1), try text(1024, 2).map { Array($0.dropFirst().prefix(95)) })
  }

  @Test("stories260K loses less than two thirds of what plain rounding loses, with two thousand tokens")
  func gain() throws {
    let (calibration, test) = try texts()
    #expect(calibration.reduce(0) { $0 + $1.count } == 2048)
    let (path, report) = try packed("stories260K", "calibrated", calibration)
    let found = try #require(report)
    #expect(found.certificates.count == 35 && found.unreached.isEmpty && found.heldOut > 0)
    #expect(found.taken > 25)
    let loss = try divergence(path, "stories260K", test)
    let plain = try divergence(try packed("stories260K", "plain").path, "stories260K", test)
    // 0.40 with 16,000 tokens.
    #expect(loss < 0.66 * plain)
    // The same file from any number of threads.
    let (again, _) = try packed("stories260K", "again", calibration, threads: 1)
    #expect(try bytes(of: path) == bytes(of: again))
  }

  @Test("int4 groups lose less than two thirds of what rounding loses; GPTQ lies between", arguments: Int4Groups.Zero.allCases)
  func groups(_ zeros: Int4Groups.Zero) throws {
    let (calibration, test) = try texts()
    // Rows of 172 inputs are no whole groups.
    let rules = [try PackingRule("down_proj=nf4")]
    func loss(_ name: String, _ windows: [[Int]]?, _ encoder: CalibrationOptions.Encoder = .calibrated) throws -> Double {
      let (path, report) = try packed("stories260K", name, windows, rules: rules, encoder: encoder) { options in
        options.codec = .codec(.int4)
        (options.groupSize, options.zeros) = (32, zeros)
      }
      #expect(report == nil || report?.certificates.count == (encoder == .gptq ? 30 : 35))
      _ = try Checkpoint.open(path).verify(threads: 2)
      return try divergence(path, "stories260K", test)
    }
    let plain = try loss("plain", nil), own = try loss("own", calibration), published = try loss("gptq", calibration, .gptq)
    #expect(own < 0.66 * plain && own < published && published < plain, "\(own) \(published) \(plain)")
  }

  @Test("Every family: norms first and last, Conv1D, biases, plain and gated MLPs", arguments: ["llama", "gpt2", "roberta"])
  func families(name: String) throws {
    var random = Generator(11)
    let windows = (0..<24).map { _ in (0..<24).map { _ in Int.random(in: 3..<60, using: &random) } }
    let (path, report) = try packed("models/" + name, name, windows) { $0.blockSize = 32 }
    let found = try #require(report)
    let (own, float) = (try Model(path, threads: 2), try Model(fixture("models/" + name), threads: 2))
    let linears = try own.transformer.weights.layers.reduce(0) { $0 + $1.linears.count }
    #expect(found.certificates.count == linears)
    #expect(found.certificates.allSatisfy { $0.tokens + $0.measured == 24 * 24 })
    let plain = try Model(try packed("models/" + name, name + "-plain") { $0.blockSize = 32 }.path, threads: 2)
    let test = TokenRun((0..<24).map { _ in Int.random(in: 3..<60, using: &random) })
    let width = float.network.width * 24
    let wanted = Array(UnsafeBufferPointer(start: try float.network.hidden(.tokens([test]), tape: nil), count: width))
    func distance(_ model: Model) throws -> Double {
      let states = UnsafeBufferPointer(start: try model.network.hidden(.tokens([test]), tape: nil), count: width)
      var sum = 0.0
      for (state, wish) in zip(states, wanted) { sum += Double(state - wish) * Double(state - wish) }
      return sum
    }
    // Random weights and random tokens: little to gain, nothing to lose.
    #expect(try distance(own) < 1.0 * distance(plain))
  }

  @Test("Tensors that are kept, packed otherwise or not reached")
  func rules() throws {
    let windows = (0..<8).map { start in (0..<32).map { 3 + (start * 31 + $0 * 7) % 200 } }
    let rules = [
      try PackingRule(keeping: "layers.1.mlp"), try PackingRule("layers.2.self_attn.o_proj=int8"),
      try PackingRule("layers.3.self_attn.q_proj=fp4:block=32"), try PackingRule("embed_tokens=nf4"),
    ]
    let (path, report) = try packed("stories260K", "rules", windows, rules: rules)
    let found = try #require(report)
    #expect(found.certificates.count == 35 - 3 - 1)
    #expect(found.unreached == ["model.embed_tokens.weight"])
    let checkpoint = try Checkpoint.open(path)
    #expect(checkpoint.tensor("model.layers.2.self_attn.o_proj.weight")?.encoding.name == "int8")
    #expect(checkpoint.tensor("model.layers.3.self_attn.q_proj.weight")?.encoding.name == "fp4")
    #expect(checkpoint.tensor("model.layers.1.mlp.up_proj.weight")?.isPacked == false)
    _ = try checkpoint.verify(threads: 2)
    // A single short text: nothing is held out, and it is said.
    #expect(found.warnings.count == 1)
    let (_, short) = try packed("stories260K", "short", [[1, 5, 6, 7]])
    #expect(short?.heldOut == 0 && short?.certificates.allSatisfy { !$0.isHeldOut && $0.measured == 4 } == true)
    #expect(throws: NibbleError.self) { try packed("stories260K", "empty", []) }
    #expect(throws: NibbleError.self) { try packed("stories260K", "beyond", [[5000]]) }
  }
}
