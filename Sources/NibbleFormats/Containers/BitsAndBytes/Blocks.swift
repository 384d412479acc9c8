import NibbleCore
import NibbleQuant

/// 4-bit blocks: codes, scales, the tables of their values, and a text that describes them.
extension BlockCodec: BitsAndBytesCodec {
  static var bits: Int { 4 }

  static func gather(_ tensors: [StoredTensor], _ dtype: DType) throws -> [StoredTensor] { try groupPackedTensors(tensors) }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    let base = target.name.text
    let storage = target.foreign.storage
    let count = target.count
    let codes = codeBytes(count)
    let blocks = blocks(count)
    func entry(
      _ suffix: String, _ dtype: DType, _ shape: [Int], _ length: Int, _ part: SafetensorsLayout.Part
    ) -> SafetensorsLayout.Entry { .init(name: ByteName(base + suffix), dtype: dtype, shape: shape, length: length, part: part) }
    var entries = [entry("", storage, [codes / (storage.bitWidth / 8), 1], codes, .section(.codes))]
    if nested == nil {
      entries.append(entry(".absmax", .f32, [blocks], 4 * blocks, .section(.scales)))
    } else {
      let nested = nestedBlocks(count)
      entries += [
        entry(".absmax", .u8, [blocks], blocks, .section(.scaleCodes)),
        entry(".nested_absmax", .f32, [nested], 4 * nested, .section(.nestedScales)),
      ]
    }
    entries.append(entry(".quant_map", .f32, [16], 64, .table(codebook)))
    if let nested { entries.append(entry(".nested_quant_map", .f32, [256], 1024, .table(nested.codebook))) }
    let text = target.stateText?.plainLength ?? QuantState.longestText(shape: target.shape, nested: nested != nil)
    entries.append(entry(QuantState.suffix + code.name, .u8, [text], text, .state))
    return entries
  }

  func stateText(_ target: TensorTarget, offset: [UInt8]) -> [UInt8] {
    let bits = offset.enumerated().reduce(UInt32(0)) { $0 | UInt32($1.element) << UInt32(8 * $1.offset) }
    return QuantState(
      code: code, blockSize: blockSize, dtype: target.dtype, shape: target.shape,
      nested: nested.map { .init(blockSize: $0.blockSize, offset: Float(bitPattern: bits)) }
    ).text
  }

  func isDescribed(by text: [UInt8], _ dtype: DType, _ shape: [Int], offset: [UInt8]) -> Bool {
    guard let state = try? QuantState(text: text), state.describes(self, dtype, shape) else { return false }
    return state.nested.map { Codebook(bits: [$0.offset.bitPattern]).bytes == offset } ?? true
  }

  func configuration(_ dtype: DType) -> (quantType: String, doubleQuant: Bool, computeDType: String) {
    (code.name, nested != nil, QuantState.dtypes.first { $0.dtype == dtype }?.name ?? "float32")
  }

  var tellsType: Bool { true }
}
