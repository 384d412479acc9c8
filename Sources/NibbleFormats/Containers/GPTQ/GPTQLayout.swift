import NibbleCore
import NibbleQuant

/// GPTQ's layout, as GPTQModel, AutoGPTQ, AutoRound and vLLM have it: codes packed along the inputs; zero points, of `checkpoint_format`
/// `gptq` less one; `scales`; `g_idx`.
enum GPTQLayout: PackedLayout {
  static var format: OutputFormat { .gptq }
  static let method = "gptq"
  /// `checkpoint_format` with zero points as they are, and with those of the first programs, less one. GPTQModel takes one from the
  /// whole word, and so a zero point of 0 borrows from its neighbour.
  static let plainZeros = "gptq_v2", lessOne = "gptq"
  static let one: UInt32 = 0x1111_1111

  static func isOne(_ settings: QuantizationSettings) -> Bool { settings.method == method }

  /// As `GPTQFolder` writes them: zero points that are not all 8 stand as they are.
  static func isStoredAnew(_ settings: QuantizationSettings) -> Bool {
    (settings["sym"]?.bool ?? false) == (settings[formatKey(settings)]?.string == plainZeros)
  }

  private static func formatKey(_ settings: QuantizationSettings) -> String {
    settings["checkpoint_format"] == nil ? "format" : "checkpoint_format"
  }

  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor] {
    try settings.check("bits", 4)
    try settings.check("pack_dtype", "int32")
    try settings.check("is_marlin_format", false)
    let key = formatKey(settings)
    try settings.check(key, JSON(plainZeros), JSON(lessOne))
    let symmetric = settings["sym"]?.bool ?? false
    for (pattern, own) in settings["dynamic"]?.members ?? [] {
      for (key, expected) in [("bits", JSON(4)), ("sym", .bool(symmetric))] {
        if let value = own[key], value != expected { throw settings.fail("dynamic: \(pattern): \(key)", value) }
      }
    }
    return try QWeights(
      layout: "GPTQ", groupSize: settings.groupSize("group_size"), isSymmetric: symmetric, packsInputs: true,
      addedToZeros: settings[key]?.string == plainZeros ? 0 : one, needsIndex: settings["desc_act"]?.bool ?? false
    ).gather(tensors)
  }
}
