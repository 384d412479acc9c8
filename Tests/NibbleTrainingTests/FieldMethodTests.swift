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

  typealias Case = MethodCase

  static let cases = [
    Case(method: "ia3"), Case(method: "lokr"), Case(method: "lokr", settings: ["decompose_both": 1], rank: 1), Case(method: "lokr", rank: 64),
    Case(method: "loha", rank: 2), Case(method: "vera", rank: 6), Case(method: "adalora"), Case(method: "oft", settings: ["oft_block_size": 8]),
    Case(method: "oft", settings: ["oft_block_size": 4, "block_share": 1, "use_cayley_neumann": 0]),
    Case(method: "boft", settings: ["boft_block_size": 4, "boft_n_butterfly_factor": 3]), Case(method: "hra"),
    Case(method: "miss"), Case(method: "miss", settings: ["init_weights": 2, "mini_r": 32], rank: 5, spread: 0.02),
    Case(method: "lora-fa"),
  ]

  @Test("begin as the base, and have the slopes of the loss for gradients", arguments: cases, ["llama", "gpt2", "llama-bnb-nf4-dq"])
  func slopes(_ one: Case, _ base: String) throws {
    let model = try Model(fixture("models/" + base), threads: 2)
    expectSame(try states(model, Trained(one.options().adapter, on: model).attached(to: model)), try states(model), 1e-5)
    try one.checkSlopes(on: model)
  }

  @Test("are read again as they were, and merged into what they compute attached", arguments: cases, ["llama", "gpt2"])
  func life(_ one: Case, _ base: String) throws {
    let (_, file, _) = try one.checkLife(base, in: folder)
    _ = try AdapterInspection(file, base: Checkpoint.open(fixture("models/" + base)))
  }

  @Test("learn in a run, resumed or not, with accumulation", arguments: cases)
  func run(_ one: Case) throws { #expect(try one.checkRun().trained > 0) }

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
    var options = try one.options().adapter
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
    let error = #expect(throws: NibbleError.self) { try RunTests().train("a", try one.options()) }
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
