import NibbleCore
import NibbleQuant

/// AWQ's layout `gemm`, as AutoAWQ writes it: codes and zero points packed along the outputs, interleaved; `scales`. It is read, not
/// written: its weights go into GPTQ's and compressed-tensors' layouts as they are.
enum AWQLayout: PackedLayout {
  static var format: OutputFormat { .compressedTensors }
  static let method = "awq"

  static func isOne(_ settings: QuantizationSettings) -> Bool { settings.method == method }

  static func isStoredAnew(_ settings: QuantizationSettings) -> Bool { true }

  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor] {
    try settings.check("bits", 4)
    try settings.check("w_bit", 4)
    try settings.check("version", "gemm", "GEMM")
    try settings.check("backend", "autoawq")
    try settings.check("zero_point", true)
    // Outputs 0, 2, 4, 6, 1, 3, 5, 7 from the lowest bits up.
    return try QWeights(
      layout: "AWQ", groupSize: settings.groupSize("group_size", "q_group_size"), isSymmetric: false, packsInputs: false,
      places: [0, 4, 1, 5, 2, 6, 3, 7]
    ).gather(tensors)
  }
}
