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
    (self.model, transformer, isDiagonal, cap) = (model, try model.transformer, diagonal, options.cap)
    self.windows = windows.filter { !$0.isEmpty }
    guard !self.windows.isEmpty else { throw NibbleError.usage("there is no token to calibrate with") }
  }

  /// A step of a layer: matrices that share their input.
  private struct Step {
    let half: HalfLayer
    let layer: Int
    let isExit: Bool
    var linears: [Linear] { isExit ? [half.exit] : half.entries }
    var name: String { linears.first?.name ?? "" }
    var inputs: Int { linears.first?.inputs ?? 0 }
  }

  private var halves: [(layer: Int, half: HalfLayer)] {
    transformer.weights.layers.indices.flatMap { layer in
      HalfLayer.Part.allCases.map { (layer, HalfLayer(transformer, layer: layer, $0)) }
    }
  }

  private var ending: String { isDiagonal ? ".energies" : ".moments" }

  /// The tensors of the file.
  private var tensors: [(name: String, shape: [Int])] {
    halves.flatMap { layer, half in
      [false, true].map { isExit in
        let step = Step(half: half, layer: layer, isExit: isExit)
        return [(step.name + ending, [isDiagonal ? step.inputs : step.inputs * (step.inputs + 1) / 2]), (step.name + ".means", [step.inputs])]
      }.joined()
    }
  }

  /// Bytes of the file's tensors.
  public var bytes: Int { tensors.reduce(0) { $0 + 4 * $1.shape[0] } }

  /// Runs the text and writes the file.
  ///
  /// - Parameter progress: called with steps done and steps in all
  /// - Throws: `.quality` naming the layer whose numbers are not finite, `.failed` without OpenBLAS, `.interrupted`, `.cannotWrite`
  public func run(
    to path: String, force: Bool, threads: Int, progress: (Int, Int) -> Void = { _, _ in }
  ) throws -> Report {
    let started = monotonicSeconds()
    guard BLAS.isThere else {
      throw NibbleError(.failed, "statistics need OpenBLAS (libopenblas.so.0), which is not installed")
    }
    var report = Report()
    let owners = halves.flatMap { layer, half in
      [false, true].flatMap { isExit -> [(String, JSON)] in
        let step = Step(half: half, layer: layer, isExit: isExit)
        return step.linears.map { ($0.name, JSON(step.name)) }
      }
    }
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
    var report = Report(), sums: [String: [Float]] = [:]
    try compute(&report, progress) { step, found in
      for linear in step.linears { sums[linear.name + ".weight"] = found.squares }
    }
    let tokens = windows.reduce(0) { $0 + $1.count }
    return Importance(sums: sums, tokens: tokens, name: name, windows: windows.count, longest: windows.map(\.count).max() ?? 0)
  }

  /// - Parameter take: gets what each step's matrices take, when all of the text has gone through them
  private func compute(_ report: inout Report, _ progress: (Int, Int) -> Void, _ take: (Step, Sums) throws -> Void) throws {
    let width = transformer.shape.width
    let batches = Self.batches(windows)
    let stream = ResidualStream(transformer, tokens: windows.reduce(0) { $0 + $1.count }), scratch = Scratch()
    for batch in batches { try transformer.embedded(batch.runs, into: stream.at(batch.start)) }
    var done = 0
    for (layer, half) in halves {
      let entries = sums(of: half.entries[0].inputs), exit = sums(of: half.exit.inputs)
      stream.begin(half)
      for batch in batches {
        try Interrupt.check()
        let x = stream.at(batch.start)
        let input = scratch.floatStart(1, batch.rows * width)
        half.input(stream.taken(by: half, at: batch.start), batch.rows, into: input)
        let inner = scratch.floatStart(2, batch.rows * half.exit.inputs)
        half.inner(batch.runs, input, batch.rows, into: inner, scratch)
        let kept = scratch.floatStart(3, batch.rows * half.exit.inputs)
        kept.update(from: inner, count: batch.rows * half.exit.inputs)
        entries.add(input, batch.rows, transformer.engine.team)
        exit.add(kept, batch.rows, transformer.engine.team)
        half.finish(x, inner, batch.rows, scratch)
        guard LayerKernels.allFinite(x, count: batch.rows * width) else {
          throw NibbleError.quality("calibration: layer \(layer) gives NaN or infinite values")
        }
        done += 1
        progress(done, halves.count * batches.count)
      }
      for (sums, isExit) in [(entries, false), (exit, true)] {
        let step = Step(half: half, layer: layer, isExit: isExit)
        try take(step, sums)
        report.tensors += 1
        if sums.capped > report.mostCapped.tokens { report.mostCapped = (step.name, sums.capped) }
      }
      for linear in half.entries + [half.exit] { linear.matrix.releasePages() }
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

/// Sums over what one step's matrices take.
private final class Sums {
  private let moments: Moments?
  private var energies: [Double]
  private var means: [Double]
  private var weight = 0.0
  private var cap: TokenCap
  private(set) var capped = 0

  init(moments inputs: Int, _ cap: Double) {
    (moments, energies, self.cap) = (Moments(inputs: inputs, lacking: 0), [], TokenCap(times: cap))
    means = Array(repeating: 0, count: inputs)
  }

  init(energies inputs: Int, _ cap: Double) {
    (moments, energies, self.cap) = (nil, Array(repeating: 0, count: inputs), TokenCap(times: cap))
    means = Array(repeating: 0, count: inputs)
  }

  /// Adds x [rows, inputs], which is spoiled.
  func add(_ x: UnsafeMutablePointer<Float>, _ rows: Int, _ team: Team) {
    let inputs = means.count
    let weights = cap.weights(x, rows, inputs)
    for row in 0..<rows { for place in 0..<inputs { means[place] += weights[row] * Double(x[row * inputs + place]) } }
    TokenCap.scale(x, inputs, by: weights)
    capped += weights.count { $0 < 1 }
    let sum = weights.reduce(0, +)
    weight += sum
    if let moments {
      moments.add(x, lack: x, rows: rows, weight: sum, team)
    } else {
      for row in 0..<rows { for place in 0..<inputs { energies[place] += Double(x[row * inputs + place]) * Double(x[row * inputs + place]) } }
    }
  }

  /// Σ x² of each input.
  var squares: [Float] { moments?.diagonal ?? energies.map { Float($0) } }

  /// Writes the means of the products, and of x.
  func write(_ writer: TensorFile.Writer, _ name: String, means: String) throws {
    let scale = 1 / max(weight, 1e-30)
    try self.means.map { Float($0 * scale) }.withUnsafeBufferPointer { try writer.add($0, to: means) }
    guard let moments else { return try energies.map { Float($0 * scale) }.withUnsafeBufferPointer { try writer.add($0, to: name) } }
    for row in 0..<moments.inputs {
      let line = (row..<moments.inputs).map { Float(Double(moments.hessian.start[row * moments.inputs + $0]) * scale) }
      try line.withUnsafeBufferPointer { try writer.add($0, to: name) }
    }
  }
}
