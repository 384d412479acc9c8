import Foundation
import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

@Suite("Runs with every optimizer")
struct OptimizedRunTests {
  let runs = RunTests()

  static let optimizers = ["adamw", "adam", "sgd", "lion", "adafactor", "schedule-free-adamw", "adamw-8bit", "lion-8bit", "sgd-8bit"]

  /// An embedding is trained too, whose states are large enough for 8 bits.
  static func options(_ name: String, steps: Int, _ change: (inout FinetuneOptions) -> Void = { _ in }) throws -> FinetuneOptions {
    let choice = try #require(try OptimizerChoice(named: name))
    return RunTests.options(steps: steps) { options in
      options.run.optimizer.choice = choice
      (options.run.optimizer.momentum, options.run.optimizer.weightDecay) = (0.9, 0.01)
      options.run.optimizer.learningRate = name.hasPrefix("lion") ? 1e-3 : 1e-2
      options.adapter.modulesToSave = ["embed_tokens"]
      change(&options)
    }
  }

  @Test("go on where they were stopped, to the same bytes, with states in memory or paged", arguments: optimizers)
  func resumed(_ name: String) throws {
    let options = try Self.options(name, steps: 9) { $0.validationSteps = 3 }
    let paged = try Self.options(name + "-paged", steps: 9) { $0.validationSteps = 3 }
    let whole = try runs.train("whole", options, valid: RunTests.rows(4))
    try runs.train("parts", paged, threads: 1, stopAfter: 5, valid: RunTests.rows(4))
    let result = try runs.train("parts", options, threads: 3, resume: true, valid: RunTests.rows(4))
    #expect(try runs.adapter("whole") == runs.adapter("parts"))
    #expect(result?.validationLoss == whole?.validationLoss)
    #expect(try #require(whole?.validationLoss) < #require(whole?.validationBefore.first?.value))
  }

  @Test("refuse a run of another optimizer by name, and its checkpoint")
  func other() throws {
    try runs.train("run", Self.options("adamw", steps: 8), stopAfter: 5)
    let error = #expect(throws: NibbleError.self) { try runs.train("run", Self.options("adamw-8bit", steps: 8), resume: true) }
    #expect(error?.kind == .usage && error?.message.contains("begun with optimizer adamw, not with optimizer adamw-8bit") == true, "\(error?.message ?? "")")
    let model = try Model(fixture("models/llama"), threads: 1)
    let options = try Self.options("lion", steps: 8)
    let run = try TrainingRun(model, Trained(options.adapter, on: model), RunTests.rows(), options.run)
    let folder = try TrainingFolder(runs.folder.file("run"), .resume)
    let refusal = #expect(throws: NibbleError.self) { try folder.restore(run, identity: Digest128(high: 0, low: 0), step: 4) }
    #expect(refusal?.kind == .usage && refusal?.message.contains("checkpoint of optimizer adamw, not of optimizer lion") == true, "\(refusal?.message ?? "")")
  }

  @Test("schedule-free: what is validated is what is written")
  func averages() throws {
    let result = try #require(try runs.train("free", Self.options("schedule-free-adamw", steps: 7), valid: RunTests.rows(4)))
    let model = try Model(fixture("models/llama"), threads: 1)
    let pass = try TrainingPass(model, Trained(AdapterFile.open(runs.folder.file("free")), on: model))
    let rows = RunTests.rows(4)
    let loss = try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: false).loss
    #expect(abs(loss - (result.validationLoss ?? 0)) < 1e-6)
  }

  @Test("leave no file of paged states behind, and need room for it")
  func pages() throws {
    try runs.train("paged", Self.options("adamw-paged", steps: 2))
    #expect(TemporaryFolder().contents.isEmpty)
    #expect(try FileManager.default.contentsOfDirectory(atPath: runs.folder.file("paged")).allSatisfy { !$0.hasPrefix(".") })
    let error = #expect(throws: NibbleError.self) { try PagedMemory(count: 1 << 50, in: runs.folder.path) }
    #expect(error?.kind == .cannotWrite)
  }

  @Test("tensors have rates and decay of their own")
  func groups() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    var options = try Self.options("adamw", steps: 3) {
      $0.adapter.modulesToSave = ["norm", "embed_tokens"]
      $0.run.optimizer.rates = [.init(#"layers\.0\..*lora_A"#, 0), .init("lora_A", 5)]
      $0.run.optimizer.noDecay = ["norms", "lora_B"]
    }
    let trained = try Trained(options.adapter, on: model)
    try trained.group(options.run.optimizer, on: model)
    for tensor in trained.tensors {
      let isFirst = tensor.name.contains("layers.0.")
      #expect(tensor.peakRate == (tensor.name.contains("lora_A") ? (isFirst ? 0 : 5) : nil))
      #expect(tensor.decays == !(tensor.name.contains("lora_B") || tensor.name.contains("norm")), "\(tensor.name)")
    }
    // A rate of 0 moves nothing.
    let before = trained.tensors.map { Array($0.values.values) }
    let run = try TrainingRun(model, trained, RunTests.rows(), options.run)
    for _ in 0..<2 { _ = try run.step() }
    for (tensor, old) in zip(trained.tensors, before) { #expect((Array(tensor.values.values) == old) == (tensor.peakRate == 0), "\(tensor.name)") }
    for pattern in ["nothing", "layers.0.*lora_A"] {
      options.run.optimizer.rates = [.init("lora_A", 1), .init(pattern, 1)]
      #expect(throws: NibbleError.self) { try trained.group(options.run.optimizer, on: model) }
    }
    (options.run.optimizer.rates, options.run.optimizer.noDecay) = ([], ["nothing"])
    #expect(throws: NibbleError.self) { try trained.group(options.run.optimizer, on: model) }
  }

  @Test("biases are what they say they are")
  func biases() throws {
    let model = try Model(fixture("models/gpt2"), threads: 1)
    let trained = try Trained(everythingOf: model)
    var options = OptimizerOptions()
    options.noDecay = ["biases"]
    try trained.group(options, on: model)
    let kept = trained.tensors.filter { !$0.decays }.map(\.name)
    #expect(!kept.isEmpty && kept.allSatisfy { $0.hasSuffix(".bias") })
    #expect(trained.tensors.filter { $0.name.hasSuffix(".bias") }.count == kept.count)
  }

  @Test("refuse momentum's 8-bit states without momentum, means without β₁, smoothing of regression")
  func refused() throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    for (name, change) in [("sgd-8bit", { $0.momentum = 0 }), ("schedule-free-adamw", { $0.beta1 = 0 })] as [(String, (inout OptimizerOptions) -> Void)] {
      let options = try Self.options(name, steps: 2) { change(&$0.run.optimizer) }
      #expect(throws: NibbleError.self) { try Finetuning(model, options, train: RunTests.rows()) }
    }
  }
}

@Suite("NEFTune's noise and smoothed labels")
struct RegularizationTests {
  let runs = RunTests()

  @Test("noise is uniform up to alpha over the root of a sequence's numbers, and follows from seed, pass and place")
  func noise() {
    let width = 64, lengths = [3, 40]
    func noise(_ seed: UInt64, _ pass: UInt64) -> [Float] {
      var x = [Float](repeating: 0, count: 43 * width)
      EmbeddingNoise(alpha: 5, seed: seed, pass: pass).add(to: &x, lengths: lengths, width: width)
      return x
    }
    let x = noise(1, 2)
    for (range, length) in [(0..<3 * width, 3), (3 * width..<43 * width, 40)] {
      let most = 5 / Float(length * width).squareRoot(), own = x[range].map { $0 / most }
      #expect(own.allSatisfy { abs($0) <= 1 } && own.contains { $0 > 0.9 } && own.contains { $0 < -0.9 })
      let mean = own.reduce(0, +) / Float(own.count), square = own.reduce(0) { $0 + $1 * $1 } / Float(own.count)
      #expect(abs(mean) < 0.15 && abs(square - 1.0 / 3) < 0.05)
    }
    #expect(x == noise(1, 2) && x != noise(2, 2) && x != noise(1, 3))
  }

  @Test("with noise a run is the same for any threads, with checkpointing, and when it is resumed; validation has none", arguments: ["llama", "gpt2"])
  func runs(_ base: String) throws {
    func options(_ alpha: Double, _ checkpointing: Bool = false) -> FinetuneOptions {
      RunTests.options(steps: 6) { ($0.run.noiseAlpha, $0.run.checkpointing) = (alpha, checkpointing) }
    }
    try runs.train("a", options(5), base: base, threads: 1)
    try runs.train("b", options(5, true), base: base, threads: 3, stopAfter: 4)
    try runs.train("b", options(5, true), base: base, threads: 2, resume: true)
    try runs.train("c", options(0), base: base)
    #expect(try runs.adapter("a") == runs.adapter("b"))
    #expect(try runs.adapter("a") != runs.adapter("c"))
    let noisy = try runs.train("d", options(5), base: base, valid: RunTests.rows(4)), plain = try runs.train("e", options(0), base: base, valid: RunTests.rows(4))
    #expect(noisy?.validationBefore.first?.value == plain?.validationBefore.first?.value)
  }

  @Test("a smoothed loss is LabelSmoother's, and its gradient the slope", arguments: [0.0, 0.1, 0.5])
  func smoothing(_ share: Double) {
    var random = Generator(5)
    let scores = (0..<33).map { _ in random.normal() * 3 }, target = 7
    func loss(_ x: [Double]) -> Double {
      let sum = log(x.reduce(0) { $0 + exp($1) })
      let all = x.map { sum - $0 }
      return (1 - share) * all[target] + share * all.reduce(0, +) / Double(x.count)
    }
    var gradient = scores
    let own = BackwardKernels.crossEntropy(&gradient, count: 33, target: target, scale: 2, smoothing: share)
    let exact = scores.map(Double.init)
    #expect(abs(own - loss(exact)) < 1e-6)
    for i in exact.indices {
      var (above, below) = (exact, exact)
      above[i] += 1e-4
      below[i] -= 1e-4
      #expect(abs(Double(gradient[i]) - 2 * (loss(above) - loss(below)) / 2e-4) < 1e-5)
    }
  }

  @Test("smoothing leaves validation as it is, and is refused where classes are not one of several")
  func validation() throws {
    func options(_ share: Double) -> FinetuneOptions { RunTests.options(steps: 3) { $0.run.labelSmoothing = share } }
    let smooth = try runs.train("a", options(0.1), valid: RunTests.rows(4)), plain = try runs.train("b", options(0), valid: RunTests.rows(4))
    #expect(smooth?.validationBefore.first?.value == plain?.validationBefore.first?.value)
    #expect(try runs.adapter("a") != runs.adapter("b"))
  }
}

@Suite("Memory as papers count it")
struct PublishedMemoryTests {
  /// Llama 3 8B with rank 8 on every linear layer.
  static func plan(trained: Int) -> MemoryPlan {
    var plan = MemoryPlan()
    (plan.trained, plan.gradients, plan.moments) = (4 * trained, 4 * trained, 8 * trained)
    return plan
  }

  @Test("QLoRA on Llama 3 8B: the printed table, line by line")
  func lines() {
    let table = PublishedMemory(parameters: 8_030_261_248, trained: 20_971_520, weightBits: 4, isFull: false, plan: Self.plan(trained: 20_971_520))
    #expect(table.lines.map(\.name) == ["weights", "trainable", "gradients", "optimizer"])
    #expect(zip(table.lines, [3.73, 0.0097, 0.078, 0.039]).allSatisfy { abs($0.published - $1) < 1e-9 }, "\(table.lines)")
    #expect((table.total * 1000).rounded() == 3857)
    let actual = table.lines.map { ($0.actual * 1000).rounded() / 1000 }
    #expect(actual[1...] == [0.078, 0.078, 0.156])
    #expect(table.remark.contains("4 bits"))
  }

  @Test("weights of Llama 3 8B in 32, 16 and 8 bits; full training as four times them", arguments: [(32, 29.80), (16, 14.90), (8, 7.45)])
  func weights(_ bits: Int, _ printed: Double) {
    let table = PublishedMemory(parameters: 8_030_261_248, trained: 8_030_261_248, weightBits: bits, isFull: true, plan: Self.plan(trained: 1))
    #expect(abs(table.lines[0].published - printed) < 1e-9)
    #expect(abs(table.total - 4 * printed) < 1e-9)
  }
}
