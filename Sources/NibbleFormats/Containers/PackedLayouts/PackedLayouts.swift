import NibbleCore
import NibbleQuant

/// A layout in which other engines store packed weights in safetensors: how it is recognised and read.
protocol PackedLayout: Sendable {
  /// What folders of it are written as where nothing else is asked for.
  static var format: OutputFormat { get }
  /// Whether that container stores the tensors of a folder with these settings in another way.
  static func isStoredAnew(_ settings: QuantizationSettings) -> Bool
  /// Whether a folder with these settings is of this layout.
  static func isOne(_ settings: QuantizationSettings) -> Bool
  /// The tensors of a checkpoint with those of each packed weight made one.
  ///
  /// - Throws: `.badInput` naming the setting that is not read, or the weight whose parts do not fit together
  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor]
}

extension PackedLayout {
  static func isStoredAnew(_ settings: QuantizationSettings) -> Bool { false }
}

/// The layouts there are.
enum PackedLayouts {
  /// Those that a folder's settings name. bitsandbytes' and compressed-tensors' are known by their tensors.
  static let all: [any PackedLayout.Type] = [GPTQLayout.self, AWQLayout.self, MLXLayout.self, MXFP4Layout.self, FP8Layout.self]

  /// Whether the container `name` stores the tensors of a folder with these settings as they are there.
  static func writes(_ settings: QuantizationSettings, _ name: String) -> Bool {
    guard let layout = all.first(where: { $0.isOne(settings) }) else { return settings.method == name }
    return layout.format.rawValue == name && !layout.isStoredAnew(settings)
  }

  static func gather(
    _ tensors: [StoredTensor], _ settings: QuantizationSettings?, into checkpoint: inout Checkpoint, dtype: DType
  ) throws {
    defer { checkpoint.warnOfInputScales(among: tensors) }
    if let settings, let layout = all.first(where: { $0.isOne(settings) }) {
      checkpoint.tensors = try layout.gather(tensors, settings)
      checkpoint.giveFloatsTheirType()
      (checkpoint.layoutFormat, checkpoint.isStoredAnew) = (layout.format, layout.isStoredAnew(settings))
      return
    }
    checkpoint.tensors = try CompressedLayout.gather(BitsAndBytesLayout.gather(tensors, dtype), checkpoint.config)
    checkpoint.giveFloatsTheirType()
    if settings?.method == CompressedLayout.method { checkpoint.layoutFormat = .compressedTensors }
  }
}

extension Checkpoint {
  /// Whether weights quantized by this `quant_method` are packed tensors once they are read.
  package static func readsWeights(quantizedBy method: String) -> Bool {
    ["bitsandbytes", CompressedLayout.method, GPTQLayout.method, AWQLayout.method, MXFP4Layout.method, FP8Layout.method].contains(method)
  }

  /// Says how many scales by which other engines round what layers take were not kept.
  fileprivate mutating func warnOfInputScales(among all: [StoredTensor]) {
    func count(_ tensors: [StoredTensor]) -> Int { tensors.count { tensor in FP8Layout.inputScales.contains { tensor.name.text.hasSuffix($0) } } }
    let lost = count(all) - count(tensors)
    guard lost > 0 else { return }
    warnings.append(.init(.unused, "\(path: path): \(lost) scales of inputs are left out; nibble does not round what layers take"))
  }

  /// Weights that are read and never written decode to the type that the configuration says the model has, as transformers loads them.
  fileprivate mutating func giveFloatsTheirType() {
    guard let type = computeType else { return }
    for index in tensors.indices where tensors[index].encoding.kind.isReadOnly { tensors[index].dtype = type }
  }
}
