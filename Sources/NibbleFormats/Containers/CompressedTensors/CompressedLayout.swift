import NibbleCore
import NibbleQuant

/// The tensors of `pack-quantized` that belong to one weight: `weight_packed`, 8 codes a word of 32 bits, the first in the lowest;
/// `weight_scale`; `weight_shape`.
enum CompressedLayout {
  /// `quant_method` in config.json.
  static let method = "compressed-tensors"
  static let packed = ".weight_packed", scale = ".weight_scale", shape = ".weight_shape"
  /// Tensors of schemes that are not read.
  private static let foreign = [".weight_zero_point", ".weight_g_idx", ".weight_global_scale"]

  /// The module that has the weight `name`.
  static func module(of name: String) -> String? { name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : nil }

  /// The tensors of a checkpoint with those of each packed weight made one.
  ///
  /// - Parameter config: config.json, which tells a group as long as a row from a row
  /// - Throws: `.badInput` naming the tensor whose parts do not fit together, or that is of a scheme that is not read
  static func gather(_ tensors: [StoredTensor], _ config: JSON?) throws -> [StoredTensor] {
    let packed = tensors.filter { $0.name.text.hasSuffix(Self.packed) }
    var byName: [ByteName: StoredTensor] = [:]
    for tensor in tensors { byName[tensor.name] = tensor }
    if let lone = tensors.first(where: { $0.name.text.hasSuffix(shape) && byName[part(packed: $0)] == nil }) {
      throw NibbleError.badInput(
        "\(path: lone.sections[0].place): \(tensor: lone.name.text): the codes it belongs to, \(quoted(part(packed: lone).text)), are missing")
    }
    if packed.isEmpty { return tensors }
    try checkScheme(config, packed[0].sections[0].place)
    let common = groupSize(config) ?? groupSize(packed, byName)
    var found: [StoredTensor] = []
    for codes in packed {
      let module = String(codes.name.text.dropLast(Self.packed.count))
      func fail(_ reason: MessageText) -> NibbleError {
        .badInput("\(path: codes.sections[0].place): compressed weight \(subject: module + ".weight"): \(reason)")
      }
      if let odd = foreign.first(where: { byName[ByteName(module + $0)] != nil }) {
        throw fail("it has \(odd.dropFirst()); symmetric weights without it are read")
      }
      byName[codes.name] = nil
      guard byName[ByteName(module + ".weight")] == nil else { throw fail("the same weight is there plain as well") }
      guard let scales = byName.removeValue(forKey: ByteName(module + Self.scale)),
        let shape = byName.removeValue(forKey: ByteName(module + Self.shape))
      else { throw fail("its weight_scale or weight_shape is missing") }
      guard [.i64, .i32].contains(shape.dtype), shape.count == 2, case .file(let file, let offset) = shape.sections[0].source
      else {
        throw fail("weight_shape is \(shape.dtype.rawValue) of shape \(shape.shape), expected two whole numbers")
      }
      let dimensions = integers(try file.bytes(at: offset, count: shape.sections[0].plainLength), width: shape.dtype.bitWidth / 8)
      guard let count = elementCount(of: dimensions), count > 0, codes.dtype == .i32, dimensions[1] % 8 == 0,
        codes.shape == [dimensions[0], dimensions[1] / 8]
      else { throw fail("weight_packed is \(codes.dtype.rawValue) of shape \(codes.shape) for a weight of shape \(dimensions)") }
      guard [.f16, .bf16, .f32].contains(scales.dtype), scales.shape.count == 2, scales.shape[0] == dimensions[0],
        scales.shape[1] > 0,
        dimensions[1] % scales.shape[1] == 0
      else { throw fail("weight_scale is \(scales.dtype.rawValue) of shape \(scales.shape) for a weight of shape \(dimensions)") }
      let size = scales.shape[1] == 1 && dimensions[1] != common ? 0 : dimensions[1] / scales.shape[1]
      guard size == 0 || Int4Groups.sizes.contains(size) else { throw fail("groups of \(size), none of \(Int4Groups.sizes)") }
      var tensor = StoredTensor(
        ByteName(module + ".weight"), scales.dtype, dimensions, sections: [codes.sections[0], scales.sections[0]])
      tensor.encoding = WeightEncoding(Int4Groups(size: size, scale: scales.dtype, zero: .none))
      (tensor.sections[0].kind, tensor.sections[1].kind) = (.codes, .groupScales)
      tensor.sections[0].order = .swapped
      found.append(tensor)
    }
    return Array(byName.values) + found
  }

  private static func part(packed shape: StoredTensor) -> ByteName {
    ByteName(String(shape.name.text.dropLast(Self.shape.count)) + packed)
  }

  /// Throws for schemes that make other values of the same tensors, or that contradict them.
  private static func checkScheme(_ config: JSON?, _ place: String) throws {
    guard let quantization = config?["quantization_config"], quantization["quant_method"]?.string == method else { return }
    func fail(_ key: String, _ value: JSON) -> NibbleError {
      .badInput("\(path: place): quantization_config: \(key: key) = \(quoted(value.text())) is not read")
    }
    func isNothing(_ value: JSON) -> Bool { value == .null || value == .object([]) || value == .array([]) }
    for key in ["transform_config", "sparsity_config"] {
      if let value = quantization[key], !isNothing(value), value["format"]?.string != "dense" { throw fail(key, value) }
    }
    if let format = quantization["format"], format != .null, format.string != "pack-quantized" { throw fail("format", format) }
    for group in quantization["config_groups"]?.members ?? [] {
      for (key, expected) in [("num_bits", JSON(4)), ("type", "int"), ("symmetric", true)] as [(String, JSON)] {
        if let value = group.value["weights"]?[key], value != expected { throw fail(key, value) }
      }
    }
  }

  private static func groupSize(_ config: JSON?) -> Int? {
    let groups = config?["quantization_config"]?["config_groups"]?.members ?? []
    return groups.lazy.compactMap { $0.value["weights"]?["group_size"]?.int }.first { $0 > 0 }
  }

  /// What weights with several groups a row show.
  private static func groupSize(_ packed: [StoredTensor], _ byName: [ByteName: StoredTensor]) -> Int? {
    packed.lazy.compactMap { codes -> Int? in
      let module = String(codes.name.text.dropLast(Self.packed.count))
      guard codes.shape.count == 2, let scales = byName[ByteName(module + scale)], scales.shape.count == 2, scales.shape[1] > 1
      else { return nil }
      return elementCount(of: [codes.shape[1], 8]).map { $0 / scales.shape[1] }
    }.first
  }

  private static func integers(_ bytes: [UInt8], width: Int) -> [Int] {
    stride(from: 0, to: bytes.count, by: width).map { start in
      let value = (0..<width).reduce(UInt64(0)) { $0 | UInt64(bytes[start + $1]) << UInt64(8 * $1) }
      return width == 8 ? Int(truncatingIfNeeded: Int64(bitPattern: value)) : Int(Int32(truncatingIfNeeded: value))
    }
  }

  static func bytes(of numbers: [Int]) -> [UInt8] {
    numbers.flatMap { number in (0..<8).map { UInt8(truncatingIfNeeded: number >> (8 * $0)) } }
  }
}
