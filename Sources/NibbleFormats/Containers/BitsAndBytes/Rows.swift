import NibbleCore
import NibbleQuant

/// The names under which bitsandbytes stores what belongs to the weight of an LLM.int8 layer.
enum RowLayout {
  /// What a weight's own name ends with.
  static let weight = ".weight"
  /// The greatest magnitude of each row, float32.
  static let scales = ".SCB"
  /// A byte that says how the codes lie; row by row is the only way that is still in use.
  static let format = ".weight_format"
  static let rowByRow: UInt8 = 0

  /// The module that has the weight `name`.
  static func module(of name: String) -> String? { name.hasSuffix(weight) ? String(name.dropLast(weight.count)) : nil }
}

/// LLM.int8: codes, the greatest magnitude of each row, and a byte that says how codes lie, named after the module.
extension Int8Rows: BitsAndBytesCodec {
  static var bits: Int { 8 }

  static func gather(_ tensors: [StoredTensor], _ dtype: DType) throws -> [StoredTensor] { try groupRows(tensors, dtype) }

  func layoutRefusal(_ target: TensorTarget) -> String? {
    RowLayout.module(of: target.name.text) == nil ? "int8 and not called '….weight'" : nil
  }

  func entries(of target: TensorTarget) -> [SafetensorsLayout.Entry] {
    let module = RowLayout.module(of: target.name.text) ?? target.name.text
    let (codes, scales) = (target.sections[0], target.sections[1])
    return [
      .init(name: target.name, dtype: .i8, shape: target.shape, length: codes.length, part: .section(.codes)),
      .init(
        name: ByteName(module + RowLayout.scales), dtype: .f32, shape: [scales.length / 4], length: scales.length,
        part: .section(.scales)),
      .init(
        name: ByteName(module + RowLayout.format), dtype: .u8, shape: [], length: 1, part: .constant([RowLayout.rowByRow])),
    ]
  }

  // transformers writes these of models of 8 bits too, as they are by default.
  func configuration(_ dtype: DType) -> (quantType: String, doubleQuant: Bool, computeDType: String) { ("fp4", false, "float32") }
}

/// Finds LLM.int8 weights among the plain tensors of a safetensors checkpoint: bitsandbytes spreads each over two or three tensors
/// of one module.
///
/// - Parameters:
///   - tensors: every tensor of the checkpoint, names distinct
///   - dtype: the type of the weights before, which these tensors do not tell
/// - Returns: the tensors with each group made one
/// - Throws: `.badInput` naming the tensor whose group does not fit together
private func groupRows(_ tensors: [StoredTensor], _ dtype: DType) throws -> [StoredTensor] {
  let scales = tensors.filter { $0.name.text.hasSuffix(RowLayout.scales) }
  if scales.isEmpty { return tensors }
  var byName: [ByteName: StoredTensor] = [:]
  for tensor in tensors { byName[tensor.name] = tensor }
  var rows: [StoredTensor] = []
  for scales in scales {
    let module = String(scales.name.text.dropLast(RowLayout.scales.count))
    func fail(_ reason: MessageText) -> NibbleError {
      .badInput("\(path: scales.sections[0].place): LLM.int8 weight \(subject: module + RowLayout.weight): \(reason)")
    }
    byName[scales.name] = nil
    guard let codes = byName.removeValue(forKey: ByteName(module + RowLayout.weight)) else {
      throw fail("there are scales and no weight")
    }
    guard codes.dtype == .i8, codes.shape.count == 2, codes.count > 0 else {
      throw fail("\(codes.dtype.rawValue) of shape \(codes.shape), expected a matrix of I8")
    }
    guard scales.dtype == .f32, scales.shape == [codes.shape[0]] else {
      throw fail("scales of \(scales.dtype.rawValue) and shape \(scales.shape) for \(codes.shape[0]) rows")
    }
    if let format = byName.removeValue(forKey: ByteName(module + RowLayout.format)) {
      guard format.dtype == .u8, format.count == 1, case .file(let file, let offset) = format.sections[0].source,
        try file.bytes(at: offset, count: 1) == [RowLayout.rowByRow]
      else { throw fail("its weight_format is not 0: codes that do not lie row by row are not read") }
    }
    var tensor = StoredTensor(codes.name, dtype, codes.shape, sections: [codes.sections[0], scales.sections[0]])
    tensor.encoding = .int8
    tensor.sections[0].kind = .codes
    tensor.sections[1].kind = .scales
    rows.append(tensor)
  }
  return Array(byName.values) + rows
}
