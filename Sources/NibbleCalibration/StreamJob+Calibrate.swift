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
    let transformer = try model.transformer
    let windows = windows.filter { !$0.isEmpty }
    guard !windows.isEmpty else { throw NibbleError.usage("there is no token to calibrate with") }
    let targets = targets(of: transformer)
    guard !targets.isEmpty else { return CalibrationReport() }
    let pass = CalibrationPass(transformer, windows, targets, options, rules: rules, progress: progress)
    try pass.run()
    for index in items.indices { if let codes = pass.decided[items[index].source.name.text] { items[index].decided = codes } }
    var report = pass.report
    report.unreached = items.filter { $0.target.encoding.kind.searchesScales && !$0.source.isPacked && $0.decided == nil }
      .map(\.source.name.text)
    report.warnings = Self.warnings(report, transformer)
    report.seconds = monotonicSeconds() - started
    return report
  }

  /// The packed matrices that the layers of a model read.
  func targets(of transformer: Transformer) -> [ParameterID: CalibrationPass.Target] {
    let prefix = source.modelType.flatMap { type in source.family?.prefix(type) } ?? ""
    var places: [String: Int] = [:]
    for (index, item) in items.enumerated() where item.target.encoding.isPacked && !item.source.isPacked {
      places[item.source.name.text] = index
    }
    var targets: [ParameterID: CalibrationPass.Target] = [:]
    for layer in transformer.weights.layers {
      for linear in layer.linears {
        let name = linear.name + ".weight"
        let names = name.hasPrefix(prefix) ? [name, String(name.dropFirst(prefix.count))] : [name]
        guard let known = names.first(where: { places[$0] != nil }), let index = places[known] else { continue }
        let target = items[index].target
        // A packed weight is stored [outputs, inputs]; another one is left to the stream.
        guard target.shape == [linear.outputs, linear.inputs] else { continue }
        targets[linear.id] = CalibrationPass.Target(
          name: known, module: linear.name, codec: target.encoding.codec, dtype: target.dtype, place: "\(path: source.path): \(tensor: known)",
          isMapped: items[index].source.isMapped)
      }
    }
    return targets
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
  /// Whether its layers can be run one after another.
  public var isTransformer: Bool { network is Transformer }

  /// Whether it can write the text it is calibrated with.
  public var writesText: Bool {
    guard let transformer = network as? Transformer, case .language = transformer.head else { return false }
    return transformer.shape.isCausal
  }

  /// The network, whose layers calibration runs one after another.
  ///
  /// - Throws: `.usage` for networks that are no transformer
  var transformer: Transformer {
    get throws {
      guard let transformer = network as? Transformer else {
        throw NibbleError.usage("\(path: path): \(.encoder, "calibrated") is for transformers, which this model is not")
      }
      return transformer
    }
  }
}

extension StoredTensor {
  /// Whether its elements are used where they lie in a file.
  fileprivate var isMapped: Bool {
    guard !isPacked, let section = section(.data), section.compression == .none, case .file = section.source else { return false }
    return true
  }
}
