import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// Layers with experts. The packed model's router says which tokens an expert sees, and how much each counts: it is calibrated with these, in what
/// it gives by itself.
extension CalibrationPass {
  /// Tokens that an expert has to see, and of those held out. One that sees fewer has its codes rounded.
  static let fewestSeen = 64

  /// What matrices take in both models, [rows, width].
  private struct Inputs {
    let width: Int
    let float, packed: FloatStore

    init(rows: Int, width: Int) { (self.width, float, packed) = (width, FloatStore(count: rows * width), FloatStore(count: rows * width)) }
  }

  /// A row of these that a matrix sees.
  private struct Seen {
    var row: Int
    /// What it counts with.
    var share: Float
    let isHeldOut: Bool
  }

  func calibrate(_ half: HalfLayer, _ experts: Experts, _ index: Int) throws {
    let width = transformer.shape.width, steps = ExpertSteps(transformer)
    let inputs = Inputs(rows: tokens, width: width)
    try forEachBatch { batch, rows in
      let first = batch.rows.lowerBound
      for (stream, store) in [(float, inputs.float), (packed, inputs.packed)] {
        half.input(stream.taken(by: half, at: first), rows, into: store.start + first * width)
      }
    }
    let plain = try merged(experts)
    var coded = plain
    let all = batches.flatMap { batch in batch.rows.map { Seen(row: $0, share: 1, isHeldOut: batch.isHeldOut) } }
    coded.router = try self.coded([plain.router], all, inputs)[0]
    if let gate = plain.shared?.gate { coded.shared?.gate = try self.coded([gate], all, inputs)[0] }
    var seen = [[Seen]](repeating: [], count: plain.all.count), shared: [Seen] = []
    try forEachBatch { batch, rows in
      let first = batch.rows.lowerBound, x = inputs.packed.start + first * width
      func taken(_ pair: ExpertSteps.Pair) -> Seen { Seen(row: first + pair.row, share: pair.share, isHeldOut: batch.isHeldOut) }
      for (expert, pairs) in steps.pairs(coded, x, rows).enumerated() { seen[expert] += pairs.map(taken) }
      if let own = coded.shared { shared += steps.pairs(own, x, rows).map(taken) }
    }
    if let own = plain.shared { coded.shared?.expert = try self.coded(own.expert, shared, inputs, steps) }
    for (place, expert) in plain.all.enumerated() { coded.all[place] = try self.coded(expert, seen[place], inputs, steps) }
    try forEachBatch { batch, rows in
      let first = batch.rows.lowerBound, output = floats(Slot.output, rows * width)
      for (stream, store, experts) in [(float, inputs.float, plain), (packed, inputs.packed, coded)] {
        steps.output(experts, store.start + first * width, rows, into: output, scratch)
        half.add(output, rows, to: stream.at(first))
        try check(stream.at(first), rows, index)
      }
    }
  }

  /// The experts with what is merged into them.
  private func merged(_ experts: Experts) throws -> Experts {
    func own(_ expert: Expert) throws -> Expert { Expert(up: try expert.up.map(merged), down: try merged(expert.down)) }
    var found = experts
    found.router = try merged(experts.router)
    found.all = try experts.all.map(own)
    if let shared = experts.shared { found.shared = SharedExpert(try own(shared.expert), gate: try shared.gate.map(merged)) }
    return found
  }

  private func coded(_ expert: Expert, _ seen: [Seen], _ inputs: Inputs, _ steps: ExpertSteps) throws -> Expert {
    guard expert.linears.contains(where: { targets[$0.id] != nil }) else { return expert }
    var coded = expert
    coded.up = try self.coded(expert.up, seen, inputs)
    // What the last projection takes, as it is; what each row counts with comes into the sums behind that.
    let inner = Inputs(rows: seen.count, width: expert.down.inputs)
    for (own, from, to) in [(expert, inputs.float, inner.float), (coded, inputs.packed, inner.packed)] {
      try eachRun(of: seen) { run, first in
        let x = gathered(run.map { Seen(row: $0.row, share: 1, isHeldOut: false) }, from, inputs.width, into: Slot.input)
        steps.inner(own, x, run.count, into: to.start + first * inner.width, scratch)
      }
    }
    let places = seen.indices.map { Seen(row: $0, share: seen[$0].share, isHeldOut: seen[$0].isHeldOut) }
    coded.down = try self.coded([expert.down], places, inner)[0]
    return coded
  }

  /// Projections that share their input, calibrated with the rows that they see.
  private func coded(_ linears: [Linear], _ seen: [Seen], _ inputs: Inputs) throws -> [Linear] {
    guard linears.contains(where: { targets[$0.id] != nil }) else { return linears }
    if let known = try known(linears) { return known }
    var learned = seen.filter { !$0.isHeldOut }, measured = seen.filter(\.isHeldOut)
    guard learned.count >= Self.fewestSeen else { return try linears.map(rounded) }
    if measured.count < Self.fewestSeen { (learned, measured) = (seen, []) }
    let stage = Stage(inputs: inputs.width, residual: nil, cap: options.cap)
    for (rows, isHeldOut) in [(learned, false), (measured, true)] {
      try eachRun(of: rows) { run, first in
        let float = gathered(run, inputs.float, inputs.width, into: Slot.input)
        let packed = gathered(run, inputs.packed, inputs.width, into: Slot.packedInput)
        stage.add(
          .init(count: run.count, packed: packed, float: float, residual: nil, lack: nil, isHeldOut: isHeldOut),
          isAlsoMeasured: measured.isEmpty && first == 0, team)
      }
    }
    return try code(linears, stage)
  }

  /// The layer with codes rounded to searched scales. Nothing else is known of it.
  private func rounded(_ linear: Linear) throws -> Linear {
    guard let target = targets[linear.id] else { return linear }
    let task = EncodingTask(
      target.dtype, [linear.outputs, linear.inputs], place: target.place, rules: rules, search: .mse, threads: team.threads, pool: pool, measures: false,
      memory: Scratch())
    let weight = linear.matrix.values()
    let codes = try withExtendedLifetime(weight) { try target.codec.encoded(weight.start, task) }
    decided[target.name] = codes
    report.unreached.append(target.name)
    return linear.with(try Matrix(codes, target.dtype, rows: linear.outputs, columns: linear.inputs))
  }

  private func eachRun(of rows: [Seen], _ body: (_ run: ArraySlice<Seen>, _ first: Int) throws -> Void) throws {
    for first in stride(from: 0, to: rows.count, by: Self.batchRows) {
      try Interrupt.check()
      try body(rows[first..<min(first + Self.batchRows, rows.count)], first)
    }
  }

  /// Rows of `store`, [rows, width], one behind the other, each times what it counts with.
  private func gathered(_ run: some Collection<Seen>, _ store: FloatStore, _ width: Int, into slot: Int) -> UnsafeMutablePointer<Float> {
    let out = floats(slot, run.count * width)
    for (place, seen) in run.enumerated() {
      let row = out + place * width
      row.update(from: store.start + seen.row * width, count: width)
      if seen.share != 1 { LayerKernels.scale(row, by: seen.share, count: width) }
    }
    return out
  }
}
