import NibbleCore
import NibbleQuant

/// gpt-oss's layout of experts in MXFP4: `…_blocks`, [experts, outputs, blocks of inputs, 16], two codes a byte; `…_scales`, one byte a block.
/// Each expert becomes a weight by itself, stored [outputs, inputs], the transpose of what transformers makes of it.
enum MXFP4Layout: PackedLayout {
  static var format: OutputFormat { .safetensors }
  static let method = "mxfp4"
  private static let blocks = "_blocks", scales = "_scales"

  static func isOne(_ settings: QuantizationSettings) -> Bool { settings.method == method }

  static func gather(_ tensors: [StoredTensor], _ settings: QuantizationSettings) throws -> [StoredTensor] {
    var parts = PackedParts(tensors, "MXFP4")
    for parameter in parts.modules(blocks) { try gather(parameter, &parts) }
    if let lone = parts.modules(scales).lazy.compactMap({ parts.tensor($0 + scales) }).first(where: { $0.dtype == .u8 }) {
      throw NibbleError.badInput("\(lone.place): the blocks it belongs to are missing")
    }
    return try parts.all([], of: blocks)
  }

  private static func gather(_ parameter: String, _ parts: inout PackedParts) throws {
    guard let codes = parts.take(parameter + blocks) else { return }
    func fail(_ why: MessageText) -> NibbleError { .badInput("\(codes.place): \(why)") }
    guard let powers = parts.take(parameter + scales) else { throw fail("its scales, \(quoted(parameter + scales)), are missing") }
    guard codes.dtype == .u8, codes.shape.count == 4, codes.shape[3] == MXFP4.block / 2, codes.count > 0, codes.shape[0] <= ExpertPlace.most,
      let columns = elementCount(of: [codes.shape[2], MXFP4.block]), elementCount(of: [codes.count, 2]) != nil
    else { throw fail("is \(codes.dtype.rawValue) of shape \(codes.shape), expected U8 of [experts, outputs, blocks, \(MXFP4.block / 2)]") }
    guard [.u8, .f8e8m0].contains(powers.dtype), powers.shape == Array(codes.shape.dropLast()) else {
      throw fail("its scales are \(powers.dtype.rawValue) of shape \(powers.shape), expected U8 of shape \(Array(codes.shape.dropLast()))")
    }
    guard let dot = parameter.lastIndex(of: ".") else { throw fail("is no parameter of experts") }
    let block = String(parameter[..<dot]), leaf = String(parameter[parameter.index(after: dot)...])
    for expert in 0..<codes.shape[0] {
      guard let own = codes.sections[0].part(expert, of: codes.shape[0], .codes), let scale = powers.sections[0].part(expert, of: codes.shape[0], .scaleCodes)
      else { throw fail("lies in no file") }
      // transformers computes them in bfloat16, which has every one of them.
      var tensor = StoredTensor(
        ExpertPlace.name(block, leaf, isBias: false, expert), .bf16, [codes.shape[1], columns], sections: [own, scale])
      tensor.encoding = WeightEncoding(MXFP4())
      tensor.isTransposed = true
      try parts.add(tensor)
    }
  }
}

extension StoredSection {
  /// One of `count` equal parts; nil for a section that is in no file.
  func part(_ index: Int, of count: Int, _ kind: SectionKind) -> StoredSection? {
    guard case .file(let file, let offset) = source, count > 0 else { return nil }
    let length = storedLength / count
    return StoredSection(kind, in: file, at: offset + index * length, count: length)
  }
}
