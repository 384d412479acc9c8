import NibbleCore
import NibbleQuant

/// MLX's layout of mode `affine`: `weight`, eight codes of a row to a word of 32 bits; `scales` and `biases`, w = σ · q + m.
enum MLXLayout: PackedLayout {
  static var format: OutputFormat { .mlx }
  static let codes = ".weight", scales = ".scales", offsets = ".biases"
  static let sizes = [32, 64, 128]

  static func isOne(_ settings: QuantizationSettings) -> Bool {
    settings.method == nil && settings["bits"] != nil && settings["group_size"] != nil
  }

  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor] {
    try check(settings, "")
    let common = try settings.groupSize("group_size", row: nil)
    var parts = PackedParts(tensors, "MLX")
    for module in parts.modules(scales) {
      let own = settings.part(module)
      if let own { try check(own, module + ": ") }
      try gather(module, &parts, groupSize: own?["group_size"] == nil ? common : own?.groupSize("group_size", row: nil) ?? common)
    }
    for module in parts.modules(codes) {
      guard let lone = parts.tensor(module + codes), lone.dtype == .u32 else { continue }
      throw parts.fail(module, lone, "its scales are missing")
    }
    return try parts.all([offsets], of: codes)
  }

  private static func check(_ settings: QuantizationSettings, _ place: String) throws {
    for (key, expected) in [("bits", JSON(4)), ("mode", "affine")] {
      if let value = settings[key], value != expected { throw settings.fail(place + key, value) }
    }
  }

  private static func gather(_ module: String, _ parts: inout PackedParts, groupSize: Int) throws {
    guard let scales = parts.take(module + scales) else { return }
    guard let codes = parts.take(module + codes), let offsets = parts.take(module + offsets) else {
      throw parts.fail(module, scales, "its weight or biases are missing")
    }
    guard codes.dtype == .u32, codes.shape.count == 2, codes.shape.allSatisfy({ $0 > 0 }),
      let inputs = elementCount(of: [codes.shape[1], 8])
    else { throw parts.misfit(module, codes, "U32 of two dimensions") }
    let shape = [codes.shape[0], inputs / groupSize]
    guard inputs % groupSize == 0, [.f16, .bf16, .f32].contains(scales.dtype), scales.shape == shape else {
      throw parts.misfit(module, scales, "F16, BF16 or F32 of shape \(shape), groups of \(groupSize) of \(inputs) inputs")
    }
    guard offsets.dtype == scales.dtype, offsets.shape == shape else {
      throw parts.misfit(module, offsets, "\(scales.dtype.rawValue) of shape \(shape)")
    }
    try parts.add(
      module, scales.dtype, [codes.shape[0], inputs], Int4Groups(size: groupSize, scale: scales.dtype, zero: .offset),
      [
        codes.sections[0].ordered(.swapped, .codes, plainLength: codes.sections[0].storedLength),
        scales.sections[0].ordered(nil, .groupScales, plainLength: scales.sections[0].storedLength),
        offsets.sections[0].ordered(nil, .offsets, plainLength: offsets.sections[0].storedLength),
      ])
  }
}
