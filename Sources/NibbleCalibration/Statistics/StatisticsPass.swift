import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels

/// A model's text through its layers, one after another, while what their matrices take is summed and written down.
public struct StatisticsPass {
  private let model: Model
  private let transformer: Transformer
  private let windows: [[Int]]
  private let isDiagonal: Bool
  private let cap: Double

  /// What was found.
  public struct Report: Sendable {
    /// Tensors of moments, and layers they are for.
    public internal(set) var tensors = 0
    public internal(set) var layers = 0
    public internal(set) var tokens = 0
    /// The most tokens that were capped for one tensor, and the layer's name.
    public internal(set) var mostCapped = (name: "", tokens: 0)
    public internal(set) var bytes = 0
    public internal(set) var seconds = 0.0
    public internal(set) var warnings: [Warning] = []
  }

  /// - Parameters:
  ///   - windows: token ids as the model takes them
  ///   - diagonal: whether only energies of channels are kept
  /// - Throws: `.usage` for a model that is no transformer, and without any token
  public init(_ model: Model, _ windows: [[Int]], diagonal: Bool, _ options: CalibrationOptions = .init()) throws {
    (self.model, transformer, isDiagonal, cap) = (model, try diagonal ? model.calibrated : model.transformer, diagonal, options.cap)
    self.windows = windows.filter { !$0.isEmpty }
    guard !self.windows.isEmpty else { throw NibbleError.usage("there is no token to calibrate with") }
  }

  /// Matrices that share their input.
  struct Step {
    let linears: [Linear]
    var name: String { linears.first?.name ?? "" }
    var inputs: Int { linears.first?.inputs ?? 0 }
  }

  private var halves: [(layer: Int, part: HalfLayer.Part, half: HalfLayer)] {
    transformer.weights.layers.indices.flatMap { layer in
      HalfLayer.Part.allCases.map { (layer, $0, HalfLayer(transformer, layer: layer, $0)) }
    }
  }

  /// Those of a model without experts.
  private var steps: [Step] { halves.flatMap { [Step(linears: $0.half.entries), Step(linears: [$0.half.exit])] } }

  private var ending: String { isDiagonal ? ".energies" : ".moments" }

  /// The tensors of the file.
  private var tensors: [(name: String, shape: [Int])] {
    steps.flatMap { step in
      [(step.name + ending, [isDiagonal ? step.inputs : step.inputs * (step.inputs + 1) / 2]), (step.name + ".means", [step.inputs])]
    }
  }

  /// Bytes of the file's tensors.
  public var bytes: Int { tensors.reduce(0) { $0 + 4 * $1.shape[0] } }

  /// Runs the text and writes the file.
  ///
  /// - Parameter progress: called with steps done and steps in all
  /// - Throws: `.quality` naming the layer whose numbers are not finite, `.failed` without OpenBLAS, `.usage` for models with experts, `.interrupted`,
  ///   `.cannotWrite`
  public func run(
    to path: String, force: Bool, threads: Int, progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> Report {
    let started = monotonicSeconds()
    guard BLAS.isThere else {
      throw NibbleError(.failed, "statistics need OpenBLAS (libopenblas.so.0), which is not installed")
    }
    var report = Report()
    _ = try model.transformer
    let owners = steps.flatMap { step in step.linears.map { ($0.name, JSON(step.name)) } }
    report.layers = owners.count
    report.tokens = windows.reduce(0) { $0 + $1.count }
    let identity = try model.checkpoint.claimedIdentity ?? model.checkpoint.hash(threads: threads)
    let writer = try TensorFile.Writer(
      tensors,
      metadata: [
        ("format", StatisticsFile.format), ("version", "1"), ("model", identity.description), ("tokens", "\(report.tokens)"),
        ("text", CalibrationText(windows: windows, source: "").digest), ("layers", JSON.object(owners).text()),
      ], to: path, force: force)
    try compute(&report, progress) { step, sums in try sums.write(writer, step.name + ending, means: step.name + ".means") }
    try writer.finish()
    report.bytes = bytes
    let widest = transformer.weights.layers.flatMap(\.linears).map(\.inputs).max() ?? 0
    if report.tokens < 10 * widest, !isDiagonal {
      report.warnings.append(
        .init(.data, "\(report.tokens) tokens are few for moments of \(widest) inputs: \(10 * widest) would be enough"))
    }
    report.seconds = monotonicSeconds() - started
    return report
  }

  /// The mean square of what each input of each layer is, no token capped: what llama.cpp calls an importance matrix.
  ///
  /// - Parameter progress: called with steps done and steps in all
  /// - Throws: as `run` does
  public func importance(_ name: String, progress: (Int, Int) -> Void = { _, _ in }) throws -> Importance {
    var report = Report(), sums: [String: Importance.Sum] = [:]
    try compute(&report, progress) { step, found in
      for linear in step.linears { sums[linear.name + ".weight"] = Importance.Sum(squares: found.squares, tokens: found.tokens) }
    }
    return Importance(sums, name: name, windows: windows.count, longest: windows.map(\.count).max() ?? 0)
  }

  /// - Parameter take: gets what each step's matrices take, when all of the text has gone through them
  private func compute(_ report: inout Report, _ progress: (Int, Int) -> Void, _ take: (Step, Sums) throws -> Void) throws {
    let width = transformer.shape.width
    let batches = Self.batches(windows)
    let stream = ResidualStream(transformer, tokens: windows.reduce(0) { $0 + $1.count }), scratch = Scratch()
    for batch in batches { try transformer.embedded(batch.runs, into: stream.at(batch.start)) }
    var done = 0
    for (layer, part, half) in halves {
      let experts = part == .mlp ? transformer.weights.layers[layer].experts : nil
      let team = transformer.engine.team
      let found: any StepSums = experts.map { ExpertSums(transformer, $0, team, of: sums) } ?? HalfSums(half, team, of: sums)
      stream.begin(half)
      for batch in batches {
        try Interrupt.check()
        let x = stream.at(batch.start)
        let input = scratch.floatStart(1, batch.rows * width)
        half.input(stream.taken(by: half, at: batch.start), batch.rows, into: input)
        found.add(batch.runs, input, batch.rows, to: x, half, scratch)
        guard LayerKernels.allFinite(x, count: batch.rows * width) else {
          throw NibbleError.quality("calibration: layer \(layer) gives NaN or infinite values")
        }
        done += 1
        progress(done, halves.count * batches.count)
      }
      for (step, sums) in found.steps {
        try take(step, sums)
        report.tensors += 1
        if sums.capped > report.mostCapped.tokens { report.mostCapped = (step.name, sums.capped) }
        for linear in step.linears { linear.matrix.releasePages() }
      }
    }
  }

  private func sums(of inputs: Int) -> Sums { isDiagonal ? Sums(energies: inputs, cap) : Sums(moments: inputs, cap) }

  private static func batches(_ windows: [[Int]]) -> [(start: Int, rows: Int, runs: [TokenRun])] {
    var batches: [(start: Int, rows: Int, runs: [TokenRun])] = []
    for window in windows {
      if let last = batches.last, last.rows + window.count <= CalibrationPass.batchRows {
        batches[batches.count - 1].rows += window.count
        batches[batches.count - 1].runs.append(TokenRun(window))
      } else {
        batches.append((batches.last.map { $0.start + $0.rows } ?? 0, window.count, [TokenRun(window)]))
      }
    }
    return batches
  }
}
