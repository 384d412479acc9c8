import NibbleCore
import NibbleQuant

/// What GPTQ and AWQ store of a linear layer: `qweight`, `qzeros` and `scales`, inputs before outputs, eight codes to a word of 32 bits.
struct QWeights {
  /// For messages.
  let layout: String
  /// Inputs of a group; 0 for all.
  let groupSize: Int
  /// Whether every zero must be 8, and is not stored with the weight.
  let isSymmetric: Bool
  /// Whether a word of codes holds eight inputs of an output; else eight outputs of an input.
  let packsInputs: Bool
  /// Where in a word eight outputs are.
  var places: [UInt32] = Array(0..<8)
  /// What is added to a word of zeros.
  var addedToZeros: UInt32 = 0
  /// Whether the groups of inputs are known only with `g_idx`.
  var needsIndex = false

  static let codes = ".qweight", zeros = ".qzeros", scales = ".scales", index = ".g_idx"

  /// The order of zeros, a byte each in use.
  func zerosOrder(outputs: Int, groups: Int) -> SectionOrder {
    .rowWords(.init(rows: outputs, columns: groups, places: places, areBytes: true, added: addedToZeros))
  }

  func codesOrder(outputs: Int, inputs: Int) -> SectionOrder {
    packsInputs
      ? .columnWords(rows: outputs, columns: inputs) : .rowWords(.init(rows: outputs, columns: inputs, places: places))
  }

  /// The tensors of a checkpoint with those of each packed weight made one.
  ///
  /// - Throws: `.badInput` naming the weight whose parts do not fit together or that groups of int4 cannot hold
  func gather(_ tensors: [StoredTensor]) throws -> [StoredTensor] {
    var parts = PackedParts(tensors, layout)
    for module in parts.modules(Self.codes) { try gather(module, &parts) }
    return try parts.all([Self.zeros, Self.scales, Self.index], of: Self.codes)
  }

  private func gather(_ module: String, _ parts: inout PackedParts) throws {
    guard let codes = parts.take(module + Self.codes) else { return }
    guard let scales = parts.take(module + Self.scales), let zeros = parts.take(module + Self.zeros) else {
      throw parts.fail(module, codes, "its scales or qzeros are missing")
    }
    guard codes.dtype == .i32, codes.shape.count == 2, codes.shape.allSatisfy({ $0 > 0 }),
      let inputs = elementCount(of: packsInputs ? [codes.shape[0], 8] : [codes.shape[0]]),
      let outputs = elementCount(of: packsInputs ? [codes.shape[1]] : [codes.shape[1], 8])
    else { throw parts.misfit(module, codes, "I32 of two dimensions") }
    guard inputs % 8 == 0, outputs % 8 == 0 else {
      throw parts.fail(module, codes, "\(outputs) outputs and \(inputs) inputs, which words of eight do not divide")
    }
    guard groupSize == 0 || inputs % groupSize == 0 else {
      throw parts.fail(module, codes, "groups of \(groupSize) do not divide its \(inputs) inputs")
    }
    let groups = groupSize == 0 ? 1 : inputs / groupSize
    guard [.f16, .bf16, .f32].contains(scales.dtype), scales.shape == [groups, outputs] else {
      throw parts.misfit(module, scales, "F16 of shape \([groups, outputs])")
    }
    guard zeros.dtype == .i32, zeros.shape == [groups, outputs / 8] else {
      throw parts.misfit(module, zeros, "I32 of shape \([groups, outputs / 8])")
    }
    try checkIndex(module, codes, &parts, inputs: inputs, groups: groups)
    let middle = (0x8888_8888 as UInt32) &- addedToZeros
    if isSymmetric, try !zeros.sections[0].isFilled(with: UInt8(truncatingIfNeeded: middle)) {
      throw parts.fail(module, zeros, "its zero points are not 8 throughout, and the settings say \(key: "sym")")
    }
    let codec = Int4Groups(size: groupSize, scale: scales.dtype, zero: isSymmetric ? .none : .int)
    let width = scales.dtype.bitWidth / 8
    var sections = [
      codes.sections[0].ordered(codesOrder(outputs: outputs, inputs: inputs), .codes, plainLength: codes.sections[0].storedLength),
      scales.sections[0].ordered(
        .turned(rows: outputs, columns: groups, width: width), .groupScales, plainLength: scales.sections[0].storedLength),
    ]
    if !isSymmetric {
      sections.append(
        zeros.sections[0].ordered(zerosOrder(outputs: outputs, groups: groups), .zeros, plainLength: scales.count))
    }
    try parts.add(module, scales.dtype, [outputs, inputs], codec, sections)
  }

  /// Throws unless the groups are of inputs one after another.
  private func checkIndex(
    _ module: String, _ codes: StoredTensor, _ parts: inout PackedParts, inputs: Int, groups: Int
  ) throws {
    guard let index = parts.take(module + Self.index) else {
      if needsIndex { throw parts.fail(module, codes, "its g_idx is missing, and the settings say \(key: "desc_act")") }
      return
    }
    guard index.dtype == .i32, index.shape == [inputs] else { throw parts.misfit(module, index, "I32 of shape \([inputs])") }
    for (input, group) in try index.sections[0].integers(width: 4).enumerated() {
      guard (0..<groups).contains(group) else { throw parts.fail(module, index, "g_idx places input \(input) in group \(group) of \(groups)") }
      guard group == input / (inputs / groups) else {
        throw parts.fail(
          module, index, "g_idx places inputs in groups by their activations (\(key: "desc_act")), and groups of int4 are of inputs one after another")
      }
    }
  }
}
