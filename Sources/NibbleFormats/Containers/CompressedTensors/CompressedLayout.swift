import NibbleCore
import NibbleQuant

/// The tensors of `pack-quantized` that belong to one weight: `weight_packed`, 8 codes a word of 32 bits, the first in the lowest;
/// `weight_scale`; `weight_shape`; of weights with zero points, `weight_zero_point`, those of eight rows to a word.
enum CompressedLayout {
  /// `quant_method` in config.json.
  static let method = "compressed-tensors"
  static let packed = ".weight_packed", scale = ".weight_scale", shape = ".weight_shape", zeros = ".weight_zero_point"
  /// Tensors of schemes that are not read.
  private static let foreign = [".weight_g_idx", ".weight_global_scale"]

  /// The tensors of a checkpoint with those of each packed weight made one.
  ///
  /// - Parameter config: config.json, which tells a group as long as a row from a row
  /// - Throws: `.badInput` naming the tensor whose parts do not fit together, or that is of a scheme that is not read
  static func gather(_ tensors: [StoredTensor], _ config: JSON?) throws -> [StoredTensor] {
    if let floats = try floats(tensors, config) { return floats }
    guard tensors.contains(where: { $0.name.text.hasSuffix(packed) || $0.name.text.hasSuffix(shape) }) else { return tensors }
    var parts = PackedParts(tensors, "compressed")
    let modules = parts.modules(packed)
    if let first = modules.first, let codes = parts.tensor(first + packed) { try checkScheme(config, codes.sections[0].place) }
    let common = groupSize(config) ?? modules.lazy.compactMap { groupSize($0, parts) }.first
    for module in modules { try gather(module, &parts, common: common, isSymmetric: isSymmetric(config)) }
    return try parts.all([packed, shape], of: packed)
  }

  /// - Parameters:
  ///   - common: the group size of several groups a row
  ///   - isSymmetric: what the configuration says of all weights; nil if it says nothing
  private static func gather(_ module: String, _ parts: inout PackedParts, common: Int?, isSymmetric: Bool?) throws {
    guard let codes = parts.take(module + packed) else { return }
    if let odd = foreign.first(where: { parts.tensor(module + $0) != nil }) {
      throw parts.fail(module, codes, "it has \(odd.dropFirst()); weights without it are read")
    }
    guard let scales = parts.take(module + scale), let shape = parts.take(module + shape) else {
      throw parts.fail(module, codes, "its weight_scale or weight_shape is missing")
    }
    guard [.i64, .i32].contains(shape.dtype), shape.count == 2 else { throw parts.misfit(module, shape, "two whole numbers") }
    let dimensions = try shape.sections[0].integers(width: shape.dtype.bitWidth / 8)
    guard dimensions.count == 2, let count = elementCount(of: dimensions), count > 0, codes.dtype == .i32, dimensions[1] % 8 == 0,
      codes.shape == [dimensions[0], dimensions[1] / 8]
    else {
      throw parts.fail(module, codes, "weight_packed is \(codes.dtype.rawValue) of shape \(codes.shape) for a weight of shape \(dimensions)")
    }
    let (rows, columns) = (dimensions[0], dimensions[1])
    guard [.f16, .bf16, .f32].contains(scales.dtype), scales.shape.count == 2, scales.shape[0] == rows, scales.shape[1] > 0,
      columns % scales.shape[1] == 0
    else {
      throw parts.fail(module, codes, "weight_scale is \(scales.dtype.rawValue) of shape \(scales.shape) for a weight of shape \(dimensions)")
    }
    let groups = scales.shape[1]
    let size = groups == 1 && columns != common ? 0 : columns / groups
    guard size == 0 || Int4Groups.sizes.contains(size) else {
      throw parts.fail(module, codes, "groups of \(size), none of \(Int4Groups.sizes)")
    }
    var sections = [
      codes.sections[0].ordered(.swapped, .codes, plainLength: codes.sections[0].storedLength),
      scales.sections[0].ordered(nil, .groupScales, plainLength: scales.sections[0].storedLength),
    ]
    let points = parts.take(module + zeros)
    if let isSymmetric, isSymmetric != (points == nil) {
      throw parts.fail(
        module, codes,
        isSymmetric
          ? "it has weight_zero_point, and the configuration says \(key: "symmetric")"
          : "its weight_zero_point is missing, and the configuration does not say \(key: "symmetric")")
    }
    if let points {
      guard points.dtype == .i32, points.shape == [(rows + 7) / 8, groups] else {
        throw parts.misfit(module, points, "I32 of shape \([(rows + 7) / 8, groups])")
      }
      sections.append(points.sections[0].ordered(zerosOrder(rows: rows, groups: groups), .zeros, plainLength: rows * groups))
    }
    let codec = Int4Groups(size: size, scale: scales.dtype, zero: points == nil ? .none : .int)
    try parts.add(module, scales.dtype, dimensions, codec, sections)
  }

  /// The order of zeros, a byte each in use.
  static func zerosOrder(rows: Int, groups: Int) -> SectionOrder {
    .rowWords(.init(rows: rows, columns: groups, isTurned: false, areBytes: true))
  }

  /// The tensors of `float-quantized`: F8_E4M3 with a scale for a tensor, a row or a block; nil for other formats.
  private static func floats(_ tensors: [StoredTensor], _ config: JSON?) throws -> [StoredTensor]? {
    guard let settings = config?["quantization_config"], settings["quant_method"]?.string == method, settings["format"]?.string == "float-quantized",
      let first = tensors.first
    else { return nil }
    try checkTransforms(settings, first.sections[0].place)
    var tiles: Set<[Int]> = []
    for group in weights(config) {
      for (key, expected) in [("num_bits", JSON(8)), ("type", "float"), ("symmetric", true)] {
        if let value = group[key], value != expected { throw unread(key, value, first.sections[0].place) }
      }
      if group["strategy"]?.string == "block" { tiles.insert(group["block_structure"]?.array?.compactMap(\.int) ?? []) }
    }
    guard tiles.count < 2, tiles.first.map({ $0.count == 2 && $0.allSatisfy { $0 > 0 } }) ?? true else {
      throw NibbleError.badInput("\(path: first.sections[0].place): quantization_config: \(key: "block_structure") is not read")
    }
    return try FP8Layout.gather(tensors, scale: scale, tile: tiles.first.map { ($0[0], $0[1]) })
  }

  /// Throws for schemes that make other values of the same tensors, or that contradict them.
  private static func checkScheme(_ config: JSON?, _ place: String) throws {
    guard let quantization = config?["quantization_config"], quantization["quant_method"]?.string == method else { return }
    try checkTransforms(quantization, place)
    func fail(_ key: String, _ value: JSON) -> NibbleError { unread(key, value, place) }
    if let format = quantization["format"], format != .null, format.string != "pack-quantized" { throw fail("format", format) }
    for group in weights(config) {
      for (key, expected) in [("num_bits", JSON(4)), ("type", "int")] {
        if let value = group[key], value != expected { throw fail(key, value) }
      }
    }
  }

  /// Throws for stored weights that are not the weights: turned by transforms, or with zeros left out.
  private static func checkTransforms(_ settings: JSON, _ place: String) throws {
    func isNothing(_ value: JSON) -> Bool { value == .null || value == .object([]) || value == .array([]) }
    for key in ["transform_config", "sparsity_config"] {
      if let value = settings[key], !isNothing(value), value["format"]?.string != "dense" { throw unread(key, value, place) }
    }
  }

  private static func unread(_ key: String, _ value: JSON, _ place: String) -> NibbleError {
    .badInput("\(path: place): quantization_config: \(key: key) = \(quoted(value.text())) is not read")
  }

  /// What a configuration says of each group of layers.
  private static func weights(_ config: JSON?) -> [JSON] {
    (config?["quantization_config"]?["config_groups"]?.members ?? []).compactMap { $0.value["weights"] }
  }

  /// nil where a configuration says nothing, or one thing of some layers and another of others.
  private static func isSymmetric(_ config: JSON?) -> Bool? {
    let said = Set(weights(config).map { $0["symmetric"]?.bool ?? true })
    return said.count == 1 ? said.first : nil
  }

  private static func groupSize(_ config: JSON?) -> Int? { weights(config).lazy.compactMap { $0["group_size"]?.int }.first { $0 > 0 } }

  /// What a weight with several groups a row shows.
  private static func groupSize(_ module: String, _ parts: PackedParts) -> Int? {
    guard let codes = parts.tensor(module + packed), let scales = parts.tensor(module + scale), codes.shape.count == 2,
      scales.shape.count == 2, scales.shape[1] > 1
    else { return nil }
    return elementCount(of: [codes.shape[1], 8]).map { $0 / scales.shape[1] }
  }

  static func bytes(of numbers: [Int]) -> [UInt8] {
    numbers.flatMap { number in (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
  }
}
