import NibbleCore
import NibbleQuant

/// A layout in which other engines store packed weights in safetensors: how it is recognised and read.
protocol PackedLayout {
  /// What folders of it are written as where nothing else is asked for.
  static var format: OutputFormat { get }
  /// Whether a folder with these settings is of this layout.
  static func isOne(_ settings: QuantizationSettings) -> Bool
  /// The tensors of a checkpoint with those of each packed weight made one.
  ///
  /// - Throws: `.badInput` naming the setting that is not read, or the weight whose parts do not fit together
  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor]
}

/// The layouts there are.
enum PackedLayouts {
  /// Those that a folder's settings name. bitsandbytes' and compressed-tensors' are known by their tensors.
  static let all: [any PackedLayout.Type] = [GPTQLayout.self, AWQLayout.self, MLXLayout.self]

  /// - Parameter settings: nil for a file without a configuration
  static func gather(
    _ tensors: [StoredTensor], _ settings: QuantizationSettings?, config: JSON?, dtype: DType
  ) throws -> (tensors: [StoredTensor], format: OutputFormat?) {
    if let settings, let layout = all.first(where: { $0.isOne(settings) }) {
      return (try layout.gather(tensors, settings), layout.format)
    }
    return (try CompressedLayout.gather(BitsAndBytesLayout.gather(tensors, dtype), config), nil)
  }
}

extension Checkpoint {
  /// Whether weights quantized by this `quant_method` are packed tensors once they are read.
  package static func readsWeights(quantizedBy method: String) -> Bool {
    ["bitsandbytes", CompressedLayout.method, GPTQLayout.method, AWQLayout.method].contains(method)
  }
}
