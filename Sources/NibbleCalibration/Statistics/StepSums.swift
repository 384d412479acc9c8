import NibbleCompute
import NibbleCore
import NibbleModels

/// What the matrices of half a layer take, summed over a text.
protocol StepSums {
  /// In the order of the pass.
  var steps: [(step: StatisticsPass.Step, sums: Sums)] { get }

  /// Adds what a batch's tokens are, and to the residual stream x what half the layer makes of them.
  ///
  /// - Parameters:
  ///   - input: what the half takes, [rows, width]; spoiled
  ///   - scratch: slots 0 and from 2 on are used
  func add(
    _ runs: [TokenRun], _ input: UnsafeMutablePointer<Float>, _ rows: Int, to x: UnsafeMutablePointer<Float>, _ half: HalfLayer, _ scratch: Scratch)
}

/// Of attention, and of a plain MLP.
struct HalfSums: StepSums {
  private let entries, exit: Sums
  private let team: Team
  let steps: [(step: StatisticsPass.Step, sums: Sums)]

  init(_ half: HalfLayer, _ team: Team, of make: (Int) -> Sums) {
    (entries, exit, self.team) = (make(half.entries[0].inputs), make(half.exit.inputs), team)
    steps = [(.init(linears: half.entries), entries), (.init(linears: [half.exit]), exit)]
  }

  func add(
    _ runs: [TokenRun], _ input: UnsafeMutablePointer<Float>, _ rows: Int, to x: UnsafeMutablePointer<Float>, _ half: HalfLayer, _ scratch: Scratch
  ) {
    let count = rows * half.exit.inputs
    let inner = scratch.floatStart(2, count), kept = scratch.floatStart(3, count)
    half.inner(runs, input, rows, into: inner, scratch)
    kept.update(from: inner, count: count)
    entries.add(input, rows, team)
    exit.add(kept, rows, team)
    half.finish(x, inner, rows, scratch)
  }
}

/// Of a layer's experts: of each, what it takes of the tokens that the router sends it, whatever they count with, as llama.cpp sums.
struct ExpertSums: StepSums {
  private struct Part {
    let expert: Expert
    let entries, exit: Sums
  }

  private let experts: Experts
  private let computed: ExpertSteps
  private let team: Team
  private let router: Sums
  /// Of the experts, and of the one that every token takes.
  private let parts: [Part]
  let steps: [(step: StatisticsPass.Step, sums: Sums)]

  init(_ transformer: Transformer, _ experts: Experts, _ team: Team, of make: (Int) -> Sums) {
    (self.experts, computed, self.team) = (experts, ExpertSteps(transformer), team)
    router = make(experts.router.inputs)
    let all = experts.all + (experts.shared.map { [$0.expert] } ?? [])
    parts = all.map { Part(expert: $0, entries: make(experts.router.inputs), exit: make($0.down.inputs)) }
    steps =
      [(.init(linears: [experts.router] + (experts.shared?.gate.map { [$0] } ?? [])), router)]
      + parts.flatMap { [(.init(linears: $0.expert.up), $0.entries), (.init(linears: [$0.expert.down]), $0.exit)] }
  }

  func add(
    _ runs: [TokenRun], _ input: UnsafeMutablePointer<Float>, _ rows: Int, to x: UnsafeMutablePointer<Float>, _ half: HalfLayer, _ scratch: Scratch
  ) {
    let width = half.width
    let pairs = computed.pairs(experts, input, rows) + (experts.shared.map { [computed.pairs($0, input, rows)] } ?? [])
    for (part, own) in zip(parts, pairs) where !own.isEmpty {
      let taken = scratch.floatStart(2, own.count * width), inner = scratch.floatStart(3, own.count * part.expert.down.inputs)
      for (place, pair) in own.enumerated() { (taken + place * width).update(from: input + pair.row * width, count: width) }
      computed.inner(part.expert, taken, own.count, into: inner, scratch)
      part.entries.add(taken, own.count, team)
      part.exit.add(inner, own.count, team)
    }
    let output = scratch.floatStart(4, rows * width)
    computed.output(experts, input, rows, into: output, scratch)
    half.add(output, rows, to: x)
    router.add(input, rows, team)
  }
}
