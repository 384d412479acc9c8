import NibbleAdapters
import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleTraining
import TestSupport
import Testing

/// What PEFT's methods beside LoRA owe: that they begin as the base, have the right gradients, and come back from their files, attached
/// and merged, as they were trained.
@Suite("PEFT's methods beside LoRA")
struct FieldMethodTests {
  let folder = TemporaryFolder()

  struct Case: CustomTestStringConvertible, Sendable {
    var method: String
    var settings: [String: Double] = [:]
    var rank = 4
    /// Of the numbers that are drawn: what is repeated often adds up.
    var spread = 0.1
    var testDescription: String { "\(method) \(settings)" }
  }

  static let cases = [
    Case(method: "ia3"), Case(method: "lokr"), Case(method: "lokr", settings: ["decompose_both": 1], rank: 1), Case(method: "lokr", rank: 64),
    Case(method: "loha", rank: 2), Case(method: "vera", rank: 6), Case(method: "adalora"), Case(method: "oft", settings: ["oft_block_size": 8]),
    Case(method: "oft", settings: ["oft_block_size": 4, "block_share": 1, "use_cayley_neumann": 0]),
    Case(method: "boft", settings: ["boft_block_size": 4, "boft_n_butterfly_factor": 3]), Case(method: "hra"),
    Case(method: "miss"), Case(method: "miss", settings: ["init_weights": 2, "mini_r": 32], rank: 5, spread: 0.02),
    Case(method: "lora-fa"),
  ]

  static func options(_ one: Case, steps: Int = 6) throws -> FinetuneOptions {
    let method = try #require(AdapterOptions.Method(rawValue: one.method))
    return RunTests.options(steps: steps) {
      ($0.adapter.method, $0.adapter.rank, $0.adapter.alpha, $0.adapter.settings) = (method, one.rank, 2, one.settings)
    }
  }

  /// Numbers that training might have put there.
  static func drawNumbers(_ trained: Trained, _ one: Case) {
    for tensor in trained.tensors {
      let random = CountedRandom(seed: 3, stream: XXH3.digest64(of: Array(tensor.name.utf8)))
      for index in 0..<tensor.values.count { tensor.values.start[index] += Float(one.spread * random.normal(UInt64(index))) }
    }
  }

  private func states(_ model: Model, _ adapter: AttachedAdapter? = nil) throws -> [Float] {
    let runs = [[7, 9, 3, 200, 7, 41, 3], [200, 3, 5, 7]].map { TokenRun($0, adapters: adapter.map { [ActiveAdapter($0)] } ?? []) }
    let count = runs.reduce(0) { $0 + $1.ids.count } * model.network.width
    return Array(UnsafeBufferPointer(start: try model.network.hidden(.tokens(runs), tape: nil), count: count))
  }

  private func expectSame(_ a: [Float], _ b: [Float], _ tolerance: Float) {
    let size = b.reduce(0) { max($0, abs($1)) }
    #expect(a.count == b.count && zip(a, b).allSatisfy { abs($0 - $1) <= tolerance * size })
  }

  @Test("begin as the base, and have the slopes of the loss for gradients", arguments: cases, ["llama", "gpt2", "llama-bnb-nf4-dq"])
  func slopes(_ one: Case, _ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    let trained = try Trained(Self.options(one).adapter, on: model)
    expectSame(try states(model, trained.attached(to: model)), try states(model), 1e-5)
    Self.drawNumbers(trained, one)
    let pass = TrainingPass(model, trained)
    let rows = RunTests.rows(4)
    func loss(learns: Bool = false) throws -> Double {
      try pass.language(rows.map { TokenRun($0.ids) }, labels: rows.map(\.labels), learns: learns).loss
    }
    _ = try loss(learns: true)
    try checkSlopes(of: trained) { try loss() }
  }

  @Test("are read again as they were, and merged into what they compute attached", arguments: cases, ["llama", "gpt2"])
  func life(_ one: Case, _ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    let options = try Self.options(one).adapter
    let trained = try Trained(options, on: model)
    Self.drawNumbers(trained, one)
    let before = try states(model, trained.attached(to: model))
    try trained.folder(options, start: nil, on: model, binding: nil).write(to: folder.file("a"), force: false)
    let file = try AdapterFile.open(folder.file("a"))
    #expect(file.config.unknownKeys.isEmpty)
    let attached = try states(model, model.attach(file, name: "a"))
    #expect(attached == before)
    #expect(try attached != states(model))
    let job = try StreamJob.merge(
      Checkpoint.open(fixture("models/" + base)), MergeOptions([.init(file)]),
      to: OutputSpec(path: folder.file("merged"), format: nil, default: .safetensors), check: MergeCheck())
    _ = try job.run()
    expectSame(try states(Model(folder.file("merged"), threads: 2)), attached, 1e-4)
    // Trained on.
    let again = try Trained(file, on: model)
    #expect(try states(model, again.attached(to: model)) == before)
    let written = again.folder(AdapterOptions(), start: file.config.json, on: model, binding: nil)
    #expect(written.tensors.map(\.name).sorted() == file.mapped.checkpoint.tensors.map(\.name.text).sorted())
    _ = try AdapterInspection(file, base: Checkpoint.open(fixture("models/" + base)))
  }

  @Test("learn in a run, resumed or not, with accumulation", arguments: cases)
  func run(_ one: Case) throws {
    let tests = RunTests()
    var options = try Self.options(one, steps: 8)
    options.run.accumulation = 2
    let result = try #require(try tests.train("a", options))
    #expect(result.trained > 0)
    try tests.train("b", options, stopAfter: 5)
    try tests.train("b", options, resume: true)
    #expect(try tests.adapter("a") == tests.adapter("b"))
  }

  /// Of a layer of 64 inputs and 64 outputs.
  static let counts: [(Case, Int)] = {
    var counts: [(Case, Int)] = [(Case(method: "ia3"), 64), (Case(method: "loha", rank: 2), 4 * 2 * 64)]
    counts += [(Case(method: "lokr", rank: 64), 64 + 64), (Case(method: "lokr", rank: 2), 64 + 2 * 2 * 8)]
    counts += [(Case(method: "vera", rank: 6), 64 + 6), (Case(method: "adalora"), 4 * (64 + 64 + 1))]
    counts += [(Case(method: "oft", settings: ["oft_block_size": 8]), 8 * 28)]
    counts += [(Case(method: "boft", settings: ["boft_block_size": 8]), 8 * 64 + 64)]
    counts += [(Case(method: "hra"), 4 * 64), (Case(method: "miss"), 4 * 64), (Case(method: "lora-fa"), 4 * 64)]
    return counts
  }()

  @Test("have as many numbers as their formulas say", arguments: counts)
  func count(_ one: Case, _ expected: Int) throws {
    let model = try Model(fixture("models/llama"), threads: 1)
    var options = try Self.options(one).adapter
    options.targets = "q_proj"
    let layer = try #require(model.linears.first { $0.name.hasSuffix("q_proj") })
    guard layer.inputs == 64, layer.outputs == 64 else {
      Issue.record("the fixture is another: \(layer.inputs), \(layer.outputs)")
      return
    }
    let trained = try Trained(options, on: model)
    #expect(trained.tensors.reduce(0) { $0 + $1.values.count } == expected * model.linears.filter { $0.name.hasSuffix("q_proj") }.count)
  }

  static let refusals: [(Case, String)] = [
    (Case(method: "oft", settings: ["oft_block_size": 7]), "block size that divides"),
    (Case(method: "oft", settings: ["r": 4]), "has to be 0, as in PEFT"), (Case(method: "oft", settings: ["oft_block_size": 8, "coft": 1]), "not trained"),
    (Case(method: "boft", settings: ["boft_block_size": 4, "boft_n_butterfly_factor": 9]), "butterfly factors need"),
    (Case(method: "miss", settings: ["init_weights": 2, "mini_r": 7]), "has to divide"),
    (Case(method: "adalora", settings: ["tinit": 9]), "leave no step"),
    (Case(method: "hra", settings: ["apply_GS": 1]), "do not begin as the base"),
  ]

  @Test("are refused where they have no place", arguments: refusals)
  func refused(_ one: Case, _ words: String) throws {
    let error = #expect(throws: NibbleError.self) { try RunTests().train("a", try Self.options(one)) }
    #expect(error?.message.contains(words) == true, "\(error?.message ?? "")")
  }

  @Test("a projection of VeRA is what PyTorch's generator draws")
  func projections() {
    // torch.empty(4).uniform_(-1, 1, generator=torch.Generator().manual_seed(0)) and of 12345
    var random = MersenneTwister(seed: 0)
    let drawn = (0..<4).map { _ in random.uniform(from: -1, to: 1) }
    for (x, y) in zip(drawn, [Float(-0.00748682), 0.5364436, -0.8230451, -0.7359390]) { #expect(abs(x - y) < 1e-6) }
  }
}
