import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleModels
import NibbleQuant

extension StreamJob {
  /// Decides the codes of every packed matrix the model's forward pass reads, from the text in `windows`.
  ///
  /// - Parameters:
  ///   - model: of the checkpoint that is quantized
  ///   - windows: token ids as the model takes them, marks among them; the order matters little, but the first are to be like the others
  ///   - progress: called with steps done and steps in all
  /// - Throws: `.usage` without any token, `.quality` naming the layer whose numbers are not finite, `.failed` without OpenBLAS
  public mutating func calibrate(
    with model: Model, _ windows: [[Int]], _ options: CalibrationOptions = .init(),
    progress: @escaping (Int, Int) -> Void = { _, _ in }
  ) throws -> CalibrationReport {
    let started = monotonicSeconds()
    guard BLAS.isThere, LAPACK.hasCholesky else {
      throw NibbleError(.failed, "\(.encoder, options.encoder.rawValue) needs OpenBLAS with LAPACK (libopenblas.so.0), which is not installed")
    }
    let transformer = try model.calibrated
    let windows = windows.filter { !$0.isEmpty }
    guard !windows.isEmpty else { throw NibbleError.usage("there is no token to calibrate with") }
    let targets = targets(of: transformer)
    guard !targets.isEmpty else { return CalibrationReport() }
    let journal = resumes ? try CodeJournal(beside: output.path, job: codeFingerprint(windows, options, transformer.engine.compute)) : nil
    let pass = CalibrationPass(
      transformer, windows, targets, biases: try changedBiases(of: transformer, in: model), options, rules: rules, journal: journal,
      progress: progress)
    do { try pass.run() } catch let error as NibbleError {
      guard journal != nil, error.isPassing else { throw error }
      throw NibbleError(error.kind, error.text + "; the codes decided so far are kept, and \(.resume) goes on from there")
    }
    let changes = Dictionary(pass.report.certificates.map { ($0.name, $0.change) }, uniquingKeysWith: { first, _ in first })
    for index in items.indices {
      let name = items[index].source.name.text
      guard let codes = pass.decided[name] else { continue }
      (items[index].decided, items[index].decidedChange) = (codes, changes[name] ?? nil)
    }
    var report = pass.report
    report.resumed = journal?.taken ?? 0
    report.unreached += items.filter { $0.isCalibrated && $0.decided == nil }.map(\.source.name.text)
    report.warnings = Self.warnings(report, transformer)
    report.seconds = monotonicSeconds() - started
    return report
  }

  /// Throws `.usage` while another process keeps codes of the same output, before there is a text to calibrate with.
  public static func checkKeptCodes(of output: String) throws { try CodeJournal.check(beside: output) }

  /// Removes the codes that are kept for going on, when the output is there.
  public func removeKeptCodes() { CodeJournal.remove(beside: output.path) }

  /// Whatever decides a code.
  private func codeFingerprint(_ windows: [[Int]], _ options: CalibrationOptions, _ precision: Compute) -> Digest128 {
    let hash = XXH3()
    hash.update(Array("\(fingerprint) \(options) \(precision) \(CalibrationText(windows: windows, source: "").digest)".utf8))
    return hash.digest128
  }

  /// The packed matrices that the layers of a model read.
  func targets(of transformer: Transformer) -> [ParameterID: CalibrationPass.Target] {
    let places = itemPlaces
    var targets: [ParameterID: CalibrationPass.Target] = [:]
    for layer in transformer.weights.layers {
      for linear in layer.linears {
        guard let index = places[linear.name + ".weight"], items[index].isCodedAnew else { continue }
        let known = items[index].source.name.text, target = items[index].target
        // A packed weight is stored [outputs, inputs]; another one is left to the stream.
        guard target.shape == [linear.outputs, linear.inputs] else { continue }
        targets[linear.id] = CalibrationPass.Target(
          name: known, module: linear.name, codec: target.encoding.codec, dtype: target.dtype, place: "\(path: source.path): \(tensor: known)",
          isMapped: items[index].source.isMapped, change: items[index].change)
      }
    }
    return targets
  }

  private var itemPlaces: TensorPlaces { TensorPlaces(items.map(\.source.name.text), of: source) }

  /// What is merged into biases of layers.
  ///
  /// - Throws: `.usage` for a merge that changes an embedding or a norm, which layers are calibrated with as they were
  private func changedBiases(of transformer: Transformer, in model: Model) throws -> [ParameterID: any TensorChange] {
    let places = itemPlaces
    var biases: [ParameterID: any TensorChange] = [:]
    for linear in transformer.weights.layers.flatMap(\.linears) {
      if let index = places[linear.name + ".bias"], let change = try items[index].change?() { biases[linear.id] = change }
    }
    let norms = transformer.weights.layers.flatMap(\.norms).flatMap { [$0.weight, $0.bias].compactMap { $0 } }
    let read = model.embeddings.map { $0.name + ".weight" } + norms.compactMap { model.parameterNames[$0.id] }
    for index in read.compactMap({ places[$0] }) where items[index].change != nil || items[index].replacement != nil {
      throw NibbleError.usage(
        "\(path: source.path): \(tensor: items[index].source.name.text) is trained too, and \(.whenLost, "calibrated") is for adapters of linear "
          + "layers; \(.whenLost, "shape") takes them")
    }
    return biases
  }

  private static func warnings(_ report: CalibrationReport, _ transformer: Transformer) -> [Warning] {
    var warnings: [Warning] = []
    let widest = transformer.weights.layers.flatMap(\.linears).map(\.inputs).max() ?? 0
    let used = report.tokens - report.heldOut
    if used < 10 * widest {
      warnings.append(
        .init(
          .data,
          "\(used) tokens to calibrate with are few for matrices of \(widest) inputs: \(10 * widest) would be enough; the codes fit the text "
            + "better than they fit others"))
    }
    return warnings
  }
}

extension Model {
  /// Whether calibration can run its layers one after another.
  public var canBeCalibrated: Bool { (try? calibrated) != nil }

  /// The network, for work that knows layers without experts.
  ///
  /// - Throws: `.usage` for networks that are no transformer, or have experts
  var transformer: Transformer {
    get throws {
      let transformer = try calibrated
      guard !transformer.weights.layers.contains(where: { $0.experts != nil }) else {
        throw NibbleError.usage("\(path: path): moments and budgets are not implemented for models with experts")
      }
      return transformer
    }
  }

  /// The network, whose layers calibration runs one after another.
  ///
  /// - Throws: `.usage` for networks that are no transformer
  var calibrated: Transformer {
    get throws {
      guard let transformer = network as? Transformer else {
        throw NibbleError.usage("\(path: path): calibration is for transformers of text, which this model is not")
      }
      guard !transformer.weights.sharesLayers else {
        throw NibbleError.usage("\(path: path): calibration is not implemented for models whose layers share weights")
      }
      guard !transformer.weights.layers.contains(where: { $0.experts?.areStacked == true }) else {
        throw NibbleError.usage("\(path: path): calibration is not implemented for experts that files stack")
      }
      guard !transformer.weights.layers.contains(where: { $0.latent != nil }) else {
        throw NibbleError.usage("\(path: path): calibration is not implemented for latent attention")
      }
      return transformer
    }
  }
}

/// Tensors of a checkpoint by their names.
private struct TensorPlaces {
  private let places: [String: Int]
  private let spellings: TensorSpellings

  init(_ names: [String], of checkpoint: Checkpoint) {
    spellings = TensorSpellings(of: checkpoint)
    places = Dictionary(zip(names, names.indices), uniquingKeysWith: { first, _ in first })
  }

  /// The place of a tensor that the model calls by this name.
  subscript(name: String) -> Int? { spellings.find(name, in: places) }
}

extension StreamJob.Item {
  /// Whether codes or scales of it depend on a text.
  var isCalibrated: Bool {
    isCodedAnew && leftOut == nil && (target.encoding.kind.searchesScales || target.encoding.codec.takesImportance)
  }

  /// Whether codes are chosen for it: it was not packed, or what it stands for changes.
  var isCodedAnew: Bool { target.encoding.isPacked && (!source.isPacked || change != nil) }
}

extension StoredTensor {
  /// Whether its elements are used where they lie in a file.
  fileprivate var isMapped: Bool {
    guard !isPacked, let section = section(.data), section.compression == .none, case .file = section.source else { return false }
    return true
  }
}
