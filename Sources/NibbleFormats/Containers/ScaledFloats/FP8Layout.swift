import NibbleCore
import NibbleQuant

/// DeepSeek's layout of FP8: `weight`, F8_E4M3, and `weight_scale_inv`, a scale for every tile of `weight_block_size`.
enum FP8Layout: PackedLayout {
  static var format: OutputFormat { .safetensors }
  static let method = "fp8"
  static let weight = ".weight", scale = ".weight_scale_inv"
  /// Scales of inputs, which are not applied.
  static let inputScales = [".activation_scale", ".input_scale", ".input_scale_inv"]

  static func isOne(_ settings: QuantizationSettings) -> Bool { settings.method == method }

  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor] {
    var tile: (height: Int, width: Int)?
    if let value = settings["weight_block_size"] {
      guard let sizes = value.array?.map(\.int), sizes.count == 2, let height = sizes[0], let width = sizes[1], height > 0, width > 0 else {
        throw settings.fail("weight_block_size", value, "is no pair of sizes")
      }
      tile = (height, width)
    }
    return try gather(tensors, scale: scale, tile: tile)
  }

  /// - Parameters:
  ///   - scale: the ending of scales
  ///   - tile: elements that share a scale; nil for a whole row or tensor, as the scales' shape shows
  static func gather(_ tensors: [StoredTensor], scale: String, tile: (height: Int, width: Int)?) throws -> [StoredTensor] {
    var parts = PackedParts(tensors, "FP8")
    for module in parts.modules(scale) { try gather(module, scale: scale, tile: tile, &parts) }
    for module in parts.modules(weight) {
      guard let lone = parts.tensor(module + weight), lone.dtype == .f8e4m3 else { continue }
      throw parts.fail(module, lone, "its scales, \(quoted(module + scale)), are missing")
    }
    let all = try parts.all([], of: weight)
    // Stacked experts, for one: their scales would be lost.
    if let odd = all.first(where: { $0.dtype == .f8e4m3 || $0.name.text.hasSuffix("_scale_inv") }) {
      throw NibbleError.badInput("\(odd.place): \(odd.dtype.rawValue) that is no weight of a linear layer with its scales, which nibble does not read")
    }
    return all
  }

  private static func gather(_ module: String, scale: String, tile: (height: Int, width: Int)?, _ parts: inout PackedParts) throws {
    guard let scales = parts.take(module + scale) else { return }
    guard let codes = parts.take(module + weight) else { throw parts.fail(module, scales, "its weight is missing") }
    guard codes.dtype == .f8e4m3, codes.shape.count == 2, codes.count > 0 else {
      throw parts.misfit(module, codes, "F8_E4M3 of two dimensions")
    }
    let (rows, columns) = (codes.shape[0], codes.shape[1])
    let kind: DType = scales.dtype == .u8 ? .f8e8m0 : scales.dtype
    guard [.f32, .bf16, .f16, .f8e8m0].contains(kind) else { throw parts.misfit(module, scales, "F32, BF16, F16 or F8_E8M0") }
    let codec: FP8Tiles
    if let tile {
      codec = FP8Tiles(height: tile.height, width: tile.width, scale: kind)
    } else if scales.count == 1 {
      codec = FP8Tiles(height: rows, width: columns, scale: kind)
    } else {
      codec = FP8Tiles(height: 1, width: columns, scale: kind)
    }
    let grid = codec.tiles(codes.shape)
    guard scales.shape == grid || tile == nil && (scales.count == 1 || scales.shape == [rows]) else {
      throw parts.misfit(module, scales, "\(kind.rawValue) of shape \(grid), one for \(codec.height) x \(codec.width) of \(codes.shape)")
    }
    var sections = [codes.sections[0], scales.sections[0]]
    (sections[0].kind, sections[1].kind) = (.codes, .scales)
    for ending in inputScales { _ = parts.take(module + ending) }
    var tensor = StoredTensor(ByteName(module + weight), [.f16, .bf16].contains(kind) ? kind : .bf16, codes.shape, sections: sections)
    tensor.encoding = WeightEncoding(codec)
    try parts.add(tensor)
  }
}
