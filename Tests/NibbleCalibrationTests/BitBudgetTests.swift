import NibbleCore
import TestSupport
import Testing

@testable import NibbleCalibration

@Suite("A budget of bits")
struct BitBudgetTests {
  /// Tensors whose choices cost less the more bytes they take, but not always.
  private func tensors(_ count: Int, seed: UInt64) -> [BitBudget.Tensor] {
    var random = Generator(seed)
    return (0..<count).map { index in
      let size = 10 * Int.random(in: 1...9, using: &random), cost = Double.random(in: 0.01...1, using: &random)
      let choices = [(4, 1.0), (5, Double.random(in: 0.3...1.1, using: &random)), (8, Double.random(in: 0.001...0.3, using: &random)), (16, 0)]
      return BitBudget.Tensor(
        name: "layers.\(index).w", elements: 8 * size,
        choices: choices.map { .init(codec: "c\($0)", bytes: $0 * size, cost: $1 * cost) })
    }
  }

  @Test("never takes more than there is, and costs no more than the best but for one step", arguments: 0..<20)
  func best(_ seed: UInt64) throws {
    let tensors = tensors(5, seed: seed)
    let least = tensors.reduce(0) { $0 + $1.choices[0].bytes }, most = tensors.reduce(0) { $0 + $1.choices[3].bytes }
    var before = Double.infinity
    for bytes in stride(from: least, through: most + 10, by: max(1, (most - least) / 9)) {
      let budget = try BitBudget(tensors, bytes: bytes)
      #expect(budget.bytes <= bytes)
      #expect(budget.cost <= before)
      before = budget.cost
      var best = Double.infinity
      for number in 0..<1024 {
        let choices = tensors.indices.map { tensors[$0].choices[number >> (2 * $0) & 3] }
        if choices.reduce(0, { $0 + $1.bytes }) <= budget.bytes { best = min(best, choices.reduce(0) { $0 + $1.cost }) }
      }
      // What was chosen lies on the hull until a step does not fit; the greatest step bounds what is lost.
      let step = tensors.map { $0.choices[0].cost }.max() ?? 0
      #expect(budget.cost <= best + step)
      if bytes >= most { #expect(budget.cost == 0) }
    }
  }

  @Test("tensors that stand together get one codec, of those that all of them have, and cost what they cost in all")
  func bonds() throws {
    func tensor(_ name: String, _ choices: [(String, Int, Double)]) -> BitBudget.Tensor {
      .init(name: name, elements: 100, choices: choices.map { .init(codec: $0.0, bytes: $0.1, cost: $0.2) })
    }
    let tensors = [
      tensor("q", [("int4", 50, 0.4), ("keep", 200, 0)]), tensor("o", [("int4", 50, 0.5), ("keep", 200, 0)]),
      tensor("k", [("keep", 200, 0), ("int8", 100, 0), ("int4", 50, 0.2)]),
    ]
    func codecs(_ bytes: Int) throws -> [String] {
      try BitBudget(tensors, bytes: bytes) { ["q", "k"].contains($0.name) ? "qk" : nil }.choices.map(\.codec)
    }
    // q and k are worth more than o, but less for their bytes; alone, k would take int8.
    #expect(try codecs(300) == ["int4", "keep", "int4"] && codecs(450) == ["int4", "keep", "int4"])
    #expect(try codecs(600) == ["keep", "keep", "keep"] && codecs(150) == ["int4", "int4", "int4"])
    #expect(try codecs(250) == ["int4", "int4", "int4"] && BitBudget(tensors, bytes: 250).choices.map(\.codec) == ["int4", "int4", "int8"])
    #expect(throws: NibbleError.self) { try codecs(149) }
  }

  @Test("a small step that leaves no room for a better one is not taken")
  func room() throws {
    let tensors = [("a.w", "int4", 14, 0.5), ("b.w", "int8", 20, 0)].map { name, codec, bytes, cost in
      BitBudget.Tensor(
        name: name, elements: 20, choices: [.init(codec: "nf4:block=64", bytes: 10, cost: 1), .init(codec: codec, bytes: bytes, cost: cost)])
    }
    #expect(try BitBudget(tensors, bytes: 30).choices.map(\.codec) == ["nf4:block=64", "int8"])
    #expect(try BitBudget(tensors, bytes: 29).choices.map(\.codec) == ["int4", "nf4:block=64"])
  }

  @Test("along the hull it is the best there is")
  func exact() throws {
    let one = BitBudget.Tensor(
      name: "a.w", elements: 100,
      choices: [
        .init(codec: "keep", bytes: 200, cost: 0), .init(codec: "nf4:block=64", bytes: 52, cost: 1), .init(codec: "int8", bytes: 101, cost: 0.01),
        // Costs more than its bytes are worth, more than what is smaller, and what is no number.
        .init(codec: "nf4:block=32", bytes: 80, cost: 0.99), .init(codec: "worse", bytes: 60, cost: 1.5), .init(codec: "broken", bytes: 70, cost: .nan),
      ])
    #expect(BitBudget.hull(one.choices) == [1, 2, 0])
    for (bytes, codec) in [(52, "nf4:block=64"), (100, "nf4:block=64"), (101, "int8"), (199, "int8"), (200, "keep")] {
      let budget = try BitBudget([one], bytes: bytes)
      #expect(budget.choices[0].codec == codec)
      #expect(budget.rules == [#"^a\.w$="# + codec])
    }
    #expect(try BitBudget([one], bytes: 101).bits == 8.08)
    #expect(throws: NibbleError.self) { try BitBudget([one], bytes: 51) }
    #expect(throws: NibbleError.self) { try BitBudget([one], bytes: -5) }
    #expect(throws: NibbleError.self) { try BitBudget([.init(name: "b.w", elements: 8, choices: [])], bytes: 100) }
  }
}
