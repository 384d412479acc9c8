import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

/// Both models, the float one and the one that is being packed, through the calibration text, half a layer at a time: what the next
/// matrices take is known when their codes are chosen, and what earlier codes did is made up for by later ones.
///
/// Where a norm or a factor stands between an exit and the residual stream, the exit's tokens and channels count as much as they come to in
/// the stream (`HalfLayer.tokenSlopes`).
final class CalibrationPass {
  /// A matrix that is going to be packed.
  struct Target {
    /// The tensor in the checkpoint.
    var name: String
    /// The layer, as the model names it.
    var module: String
    var codec: any WeightCodec
    var dtype: DType
    /// File and tensor, for messages.
    var place: MessageText
    /// Whether it lies in a mapped file, whose pages can be let go.
    var isMapped: Bool
    /// What is merged into the weight before it is packed; nil for nothing.
    var change: (@Sendable () throws -> any TensorChange)?
    /// The weight without it.
    var base: Matrix?
  }

  let transformer: Transformer
  let options: CalibrationOptions
  let rules: EncodingRules
  var team: Team { transformer.engine.team }
  /// Computes what codes are judged by, in float32 whatever the model computes in.
  let exact: Engine
  var report = CalibrationReport()
  /// By tensor name.
  var decided: [String: DecidedCodes] = [:]
  let pool = ScratchPool()
  var targets: [ParameterID: Target]
  /// What is merged into biases of layers, by the layer.
  private let biases: [ParameterID: any TensorChange]
  let batches: [Batch]
  /// The residual streams of all windows in the float and in the packed model.
  let float: ResidualStream
  let packed: ResidualStream
  let tokens: Int
  /// What a batch is computed in; given back while codes are chosen.
  var scratch = Scratch()
  /// Where decisions are kept for a run that goes on from here.
  private let journal: CodeJournal?
  private let progress: (Int, Int) -> Void
  private var done = 0

  enum Slot { static let half = 0, input = 1, packedInput = 2, inner = 3, packedInner = 4, residual = 5, lack = 6, output = 7 }

  /// Rows of a batch; the first tells what energies are usual.
  static let batchRows = 2048
  /// Numbers of what exits take that are kept for all tokens, a quarter of a gigabyte of them; more are computed once more.
  static let mostKept = 1 << 26
  /// Rows that a change is added to at a time.
  private static let mergedRun = 64
  init(
    _ transformer: Transformer, _ windows: [[Int]], _ targets: [ParameterID: Target], biases: [ParameterID: any TensorChange] = [:],
    _ options: CalibrationOptions, rules: EncodingRules, journal: CodeJournal? = nil, progress: @escaping (Int, Int) -> Void
  ) {
    (self.transformer, self.targets, self.options, self.rules, self.progress) = (transformer, targets, options, rules, progress)
    (self.biases, self.journal) = (biases, journal)
    exact = Engine(.f32, team: transformer.engine.team)
    batches = Self.batches(windows)
    tokens = windows.reduce(0) { $0 + $1.count }
    float = ResidualStream(transformer, tokens: tokens)
    packed = ResidualStream(transformer, tokens: tokens)
    report.tokens = tokens
    report.windows = windows.count
    report.heldOut = batches.filter(\.isHeldOut).reduce(0) { $0 + $1.rows.count }
  }

  /// Everything, layer by layer.
  ///
  /// - Throws: `.quality` naming the layer whose numbers are not finite, `.interrupted`
  func run() throws {
    for batch in batches { try transformer.embedded(batch.runs, into: float.at(batch.rows.lowerBound)) }
    packed.copy(float.at(0))
    for index in transformer.weights.layers.indices {
      for part in HalfLayer.Part.allCases {
        let half = HalfLayer(transformer, layer: index, part)
        for stream in [float, packed] { stream.begin(half) }
        if part == .mlp, let experts = transformer.weights.layers[index].experts {
          try calibrate(half, experts, index)
        } else {
          try calibrate(merged(half), index)
        }
      }
      for linear in transformer.weights.layers[index].linears where targets[linear.id]?.isMapped == true { linear.matrix.releasePages() }
    }
    scratch = Scratch()
    for batch in batches where batch.isHeldOut || batch.isAlsoMeasured {
      let answers = Answers(transformer), at = batch.rows.lowerBound
      report.divergence = try answers.distance(float.at(at), packed.at(at), batch.runs)
      report.isDivergenceOfScores = answers.isLanguage
    }
  }

  private func merged(_ half: HalfLayer) throws -> HalfLayer {
    var half = half
    (half.entries, half.distances, half.exit) = (try half.entries.map(merged), try half.distances.map(merged), try merged(half.exit))
    return half
  }

  /// The layer with what is merged into it: what its codes are to come to.
  func merged(_ linear: Linear) throws -> Linear {
    let linear = biases[linear.id].map { linear.adding($0) } ?? linear
    guard let change = try targets[linear.id]?.change?() else { return linear }
    targets[linear.id]?.base = linear.matrix
    let values = linear.matrix.values(), delta = FloatStore(count: values.count)
    let run = CalibrationPass.mergedRun * linear.inputs
    team.run(ceilDivide(values.count, run)) { index, scratch in
      let start = index * run, count = min(run, values.count - start)
      change.delta(values.start + start, start, count, into: delta.start + start, scratch)
      for place in start..<start + count { values.start[place] += delta.start[place] }
    }
    guard
      let matrix = Matrix(
        .f32, rows: linear.outputs, columns: linear.inputs, UnsafeRawBufferPointer(values.values), owner: values)
    else { throw NibbleError(.failed, "\(linear.name): \(linear.outputs) rows of \(linear.inputs) make no matrix") }
    return linear.with(matrix)
  }

  private func calibrate(_ plain: HalfLayer, _ index: Int) throws {
    let width = transformer.shape.width
    var half = plain
    if let known = try known(plain.entries) {
      half.entries = known
    } else if plain.entries.contains(where: { targets[$0.id] != nil }) {
      let stage = Stage(inputs: width, residual: nil, cap: options.cap)
      try forEachBatch { batch, rows in
        let (x, p) = (floats(Slot.input, rows * width), floats(Slot.packedInput, rows * width))
        plain.input(float.taken(by: plain, at: batch.rows.lowerBound), rows, into: x)
        plain.input(packed.taken(by: plain, at: batch.rows.lowerBound), rows, into: p)
        stage.add(
          .init(count: rows, packed: p, float: x, residual: nil, lack: nil, isHeldOut: batch.isHeldOut),
          isAlsoMeasured: batch.isAlsoMeasured, team)
      }
      half.entries = try code(plain.entries, stage)
    }
    half.distances = try codedDistances(plain.distances)
    let knownExit = try known([plain.exit])
    let isCoding = targets[plain.exit.id] != nil && knownExit == nil
    let inner = plain.exit.inputs
    let kept = isCoding && tokens * inner <= Self.mostKept ? FloatStore(count: tokens * inner) : nil
    let slopes = plain.channelSlopes
    let stage = Stage(inputs: isCoding ? inner : 0, residual: isCoding ? width : 0, slopes: slopes, cap: options.cap)
    try forEachBatch { batch, rows in
      let (z, q) = (floats(Slot.inner, rows * inner), floats(Slot.packedInner, rows * inner))
      compute(plain, batch, float, rows, z)
      let residual = floats(Slot.residual, rows * width)
      if isCoding {
        compute(half, batch, packed, rows, q)
        if let kept { (kept.start + batch.rows.lowerBound * inner).update(from: q, count: rows * inner) }
        let (x, p) = (float.at(batch.rows.lowerBound), packed.at(batch.rows.lowerBound))
        for place in 0..<rows * width { residual[place] = x[place] - p[place] }
      }
      let output = floats(Slot.output, rows * width)
      plain.output(z, rows, into: output)
      if isCoding, let slopes = plain.tokenSlopes(output, rows) {
        for start in [z, q] { for row in 0..<rows { LayerKernels.scale(start + row * inner, by: slopes[row], count: inner) } }
      }
      plain.add(output, rows, to: float.at(batch.rows.lowerBound))
      try check(float.at(batch.rows.lowerBound), rows, index)
      guard isCoding else { return }
      // What the sum would lack if the output's weight were still the float one: W (x − x̂) + r − r̂, as it comes into the stream.
      let lack = floats(Slot.lack, rows * width), difference = floats(Slot.half, rows * inner)
      for place in 0..<rows * inner { difference[place] = z[place] - q[place] }
      if slopes == nil { lack.update(from: residual, count: rows * width) }
      exact.multiply(
        difference, rows: rows, stride: inner, [Engine.Product(plain.exit.matrix, lack, stride: width, adds: slopes == nil)])
      if let slopes {
        for row in 0..<rows {
          for place in 0..<width { lack[row * width + place] = slopes[place] * lack[row * width + place] + residual[row * width + place] }
        }
      }
      stage.add(
        .init(count: rows, packed: q, float: z, residual: residual, lack: lack, isHeldOut: batch.isHeldOut),
        isAlsoMeasured: batch.isAlsoMeasured, team)
    }
    if isCoding { half.exit = try code([plain.exit], stage)[0] } else if let known = knownExit?.first { half.exit = known }
    try forEachBatch { batch, rows in
      let q = kept.map { $0.start + batch.rows.lowerBound * inner } ?? floats(Slot.packedInner, rows * inner)
      if kept == nil { compute(half, batch, packed, rows, q) }
      half.finish(packed.at(batch.rows.lowerBound), q, rows, scratch)
      try check(packed.at(batch.rows.lowerBound), rows, index)
    }
  }

  /// Layers that make keys and queries of distances: what they take is the same in both models, and no text's.
  private func codedDistances(_ plain: [Linear]) throws -> [Linear] {
    guard plain.contains(where: { targets[$0.id] != nil }) else { return plain }
    if let known = try known(plain) { return known }
    let longest = batches.flatMap(\.runs).map(\.ids.count).max() ?? 0
    guard let (values, rows) = transformer.distances(of: longest) else { return plain }
    let stage = Stage(inputs: transformer.shape.width, residual: nil, cap: options.cap)
    let float = FloatStore(Array(values.values))
    stage.add(
      .init(count: rows, packed: values.start, float: float.start, residual: nil, lack: nil, isHeldOut: false), isAlsoMeasured: true, team)
    return try code(plain, stage)
  }

  /// What the exit of half a layer takes of a batch.
  private func compute(_ half: HalfLayer, _ batch: Batch, _ stream: ResidualStream, _ rows: Int, _ out: UnsafeMutablePointer<Float>) {
    let input = floats(Slot.input, rows * transformer.shape.width)
    half.input(stream.taken(by: half, at: batch.rows.lowerBound), rows, into: input)
    half.inner(batch.runs, input, rows, into: out, scratch)
  }

  func floats(_ slot: Int, _ count: Int) -> UnsafeMutablePointer<Float> { scratch.floatStart(slot, count) }

  func forEachBatch(_ body: (Batch, Int) throws -> Void) throws {
    for batch in batches {
      try Interrupt.check()
      try body(batch, batch.rows.count)
      done += 1
      progress(done, 6 * transformer.weights.layers.count * batches.count)
    }
  }

  func check(_ x: UnsafePointer<Float>, _ rows: Int, _ index: Int) throws {
    guard LayerKernels.allFinite(x, count: rows * transformer.shape.width) else {
      throw NibbleError.quality("calibration: layer \(index) gives NaN or infinite values")
    }
  }

  /// The layers with packed weights in place of those that are targets.
  func code(_ linears: [Linear], _ stage: Stage) throws -> [Linear] {
    let wanted = linears.compactMap { targets[$0.id] }
    guard let first = wanted.first else { return linears }
    scratch = Scratch()
    let coder = try TensorCoder(stage, exact, options, rules: rules, pool: pool, place: first.place)
    return try linears.map { linear in
      guard let target = targets[linear.id] else { return linear }
      let found = try coder.code(linear.matrix, target)
      try journal?.note(target, found)
      return try take(found, of: linear, target)
    }
  }

  /// The layers as an earlier run decided them; nil if it did not come so far.
  func known(_ linears: [Linear]) throws -> [Linear]? {
    guard let journal, linears.contains(where: { targets[$0.id] != nil }) else { return nil }
    var known: [Linear] = []
    for linear in linears {
      guard let target = targets[linear.id] else {
        known.append(linear)
        continue
      }
      guard let found = try journal.decision(target) else { return nil }
      known.append(try take(found, of: linear, target))
    }
    return known
  }

  /// Takes a decision into the report.
  ///
  /// - Returns: the layer the packed model computes with from here on
  private func take(_ found: TensorCoder.Decision, of linear: Linear, _ target: Target) throws -> Linear {
    if let certificate = found.certificate {
      report.certificates.append(certificate)
      decided[target.name] = found.codes
    } else if target.codec.takesImportance {
      decided[target.name] = found.codes
      if found.isWeighed { report.weighed += 1 }
    }
    let packed = try Matrix(found.codes, target.dtype, rows: linear.outputs, columns: linear.inputs)
    guard let correction = found.correction else { return linear.with(packed) }
    report.corrections.append(correction)
    return linear.with(try correction.added(to: packed))
  }
}
