import NibbleCore
import NibbleFormats

/// An adapter of QA-LoRA whose file does not say so: that of a program with a gain of its own. It is written as PEFT writes one, whose gain
/// is the number of groups; the alphas make up for the difference.
public struct RecordedGain {
  private let file: AdapterFile

  /// - Parameters:
  ///   - gain: `groups`, `mean` or `sum`
  ///   - groupSize: inputs of a group
  /// - Throws: `.usage` for adapters that are no plain factors, `.badInput`
  public init(_ path: String, gain: String, groupSize: Int) throws {
    guard QALoRA.Gain(rawValue: gain) != nil else {
      throw NibbleError.usage("\(.qaloraGain, gain) is not \(QALoRA.Gain.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    guard (1...1 << 20).contains(groupSize) else { throw NibbleError.usage("\(.qaloraGroupSize, groupSize) is no size of groups") }
    let own = try AdapterFile.open(path).config
    guard own.method == LoRA.self else { throw NibbleError.usage("\(path: path) says what it is: a \(own.methodName) adapter") }
    file = try AdapterFile.open(
      path, saying: [("use_qalora", true), (QALoRA.group.key, JSON(groupSize)), (QALoRA.gain.key, JSON(gain))])
  }

  /// Writes the folder `output`.
  ///
  /// - Returns: how many modules it has
  public func write(to output: String, force: Bool) throws -> Int {
    try StreamJob.checkIsNone(of: file.mapped.checkpoint.files, output)
    let alphas = try file.modules.map { module -> (String, JSON) in
      let settings = module.shape.settings, length = QALoRA.length(settings)
      let groups = (module.shape.inputs ?? 0) / length
      let gain = QALoRA.Gain.allCases[Int(settings[QALoRA.gain.key] ?? 0)].factor((groups, length))
      let alpha = try file.config.alpha(of: module.path) * gain / Double(max(groups, 1))
      return (module.path.replacing(".", with: "\\."), JSON(alpha))
    }
    let config = file.config.json.removing(QALoRA.gain.key).setting("alpha_pattern", to: .object(alphas))
    let tensors = file.mapped.checkpoint.tensors.map { AdapterFolder.Tensor($0.name.text, copying: $0) }
    try AdapterFolder(config: config, tensors: tensors, binding: file.binding).write(to: output, force: force)
    return file.modules.count
  }
}

extension AdapterFile {
  /// The groups of QA-LoRA that make a module fit a layer, where the file does not say that it has any.
  ///
  /// - Returns: nil if it is no such module
  func unrecordedGroups(_ module: AdaptedModule, inputs: Int, outputs: Int) -> NibbleError? {
    guard module.method == LoRA.self, module.shape.kind == .linear, let own = module.shape.inputs, own > 0, module.shape.outputs == outputs,
      inputs % own == 0, inputs / own >= 16
    else { return nil }
    return NibbleError.badInput(
      "\(path: path): \(module: module.path) has a first factor for \(own) numbers, the layer takes \(inputs): QA-LoRA by groups of "
        + "\(inputs / own), with a gain that is not recorded; 'adapter convert' with \(.qaloraGain) records it")
  }
}
