import NibbleCore
import NibbleQuant

/// Finds the packed tensors among the plain ones of a safetensors checkpoint: bitsandbytes spreads each over four to
/// six tensors that share a name.
///
/// - Parameter tensors: every tensor of the checkpoint, names distinct
/// - Returns: the tensors with each group made one; transposition is for the caller to know
/// - Throws: `.badInput` naming the tensor whose group does not fit together
func groupPackedTensors(_ tensors: [StoredTensor]) throws -> [StoredTensor] {
  let states = tensors.filter { $0.name.text.range(ofBytes: QuantState.suffix) != nil }
  if states.isEmpty { return try refusingLoneTables(tensors) }
  var byName: [ByteName: StoredTensor] = [:]
  for tensor in tensors { byName[tensor.name] = tensor }
  var packed: [StoredTensor] = []
  for state in states {
    guard let range = state.name.text.range(ofBytes: QuantState.suffix) else { continue }
    let base = String(state.name.text[..<range.lowerBound])
    var group = PackedGroup(base: base, suffix: String(state.name.text[range.upperBound...]))
    group.state = byName.removeValue(forKey: state.name)
    group.codes = byName.removeValue(forKey: ByteName(base))
    group.absmax = byName.removeValue(forKey: ByteName(base + ".absmax"))
    group.map = byName.removeValue(forKey: ByteName(base + ".quant_map"))
    group.nestedAbsmax = byName.removeValue(forKey: ByteName(base + ".nested_absmax"))
    group.nestedMap = byName.removeValue(forKey: ByteName(base + ".nested_quant_map"))
    packed.append(try group.tensor())
  }
  return try refusingLoneTables(Array(byName.values)) + packed
}

private func refusingLoneTables(_ tensors: [StoredTensor]) throws -> [StoredTensor] {
  for tensor in tensors where tensor.name.text.hasSuffix(".quant_map") {
    throw NibbleError.badInput(
      "\(path: tensor.sections[0].place): \(subject: tensor.name.text) belongs to no packed tensor: its quant_state is missing")
  }
  return tensors
}

private struct PackedGroup {
  let base: String
  let suffix: String
  var state, codes, absmax, map, nestedAbsmax, nestedMap: StoredTensor?

  init(base: String, suffix: String) {
    self.base = base
    self.suffix = suffix
  }

  private func fail(_ reason: MessageText) -> NibbleError {
    NibbleError.badInput("\(path: state?.sections[0].place ?? ""): packed tensor \(subject: base): \(reason)")
  }

  func tensor() throws -> StoredTensor {
    guard let state, state.dtype == .u8, state.count <= 1 << 20 else { throw fail("its quant_state is no text") }
    let text = try bytes(state)
    let parsed: QuantState
    do { parsed = try QuantState(text: text) } catch { throw fail("\(key: "quant_state"): \(error.reason)") }
    guard parsed.code.name == suffix else { throw fail("quant_state of \(suffix) says \(parsed.code.name)") }
    guard let codes, let absmax, let map else { throw fail("its codes, absmax or quant_map are missing") }
    guard (parsed.nested != nil) == (nestedAbsmax != nil), (parsed.nested != nil) == (nestedMap != nil) else {
      throw fail("quant_state and the nested tensors disagree on double quantization")
    }
    guard codes.dtype.bitWidth % 8 == 0 else { throw fail("its codes are \(codes.dtype.rawValue), expected whole bytes") }
    guard map.dtype == .f32, map.count == 16, let codebook = Codebook(bytes: try bytes(map)) else {
      throw fail("\(key: "quant_map") is not 16 finite F32")
    }
    var codec = BlockCodec(parsed.code, blockSize: parsed.blockSize, nested: nil, codebook: codebook)
    let count = elementCount(of: parsed.shape) ?? 0
    var tensor = StoredTensor(ByteName(base), parsed.dtype, parsed.shape, sections: [])
    tensor.foreign.storage = codes.dtype
    tensor.sections.append(
      try section(codes, as: .codes, codes.dtype, bytes: codec.codeBytes(count), "codes"))
    if let nested = parsed.nested, let nestedAbsmax, let nestedMap {
      guard nestedMap.dtype == .f32, nestedMap.count == 256, let map = Codebook(bytes: try bytes(nestedMap)) else {
        throw fail("\(key: "nested_quant_map") is not 256 finite F32")
      }
      codec.nested = .init(blockSize: nested.blockSize, codebook: map)
      tensor.sections.append(try section(absmax, as: .scaleCodes, .u8, bytes: codec.blocks(count), "absmax"))
      tensor.sections.append(
        try section(nestedAbsmax, as: .nestedScales, .f32, bytes: 4 * codec.nestedBlocks(count), "nested_absmax"))
      tensor.sections.append(StoredSection(.nestedOffset, bytes: Codebook(bits: [nested.offset.bitPattern]).bytes))
    } else {
      tensor.sections.append(try section(absmax, as: .scales, .f32, bytes: 4 * codec.blocks(count), "absmax"))
    }
    if text != parsed.text { tensor.sections.append(StoredSection(.stateText, bytes: text)) }
    tensor.encoding = WeightEncoding(codec)
    return tensor
  }

  private func bytes(_ tensor: StoredTensor) throws -> [UInt8] {
    guard case .file(let file, let offset) = tensor.sections[0].source else { return [] }
    return try file.bytes(at: offset, count: tensor.sections[0].plainLength)
  }

  private func section(
    _ tensor: StoredTensor, as kind: SectionKind, _ dtype: DType, bytes: Int, _ what: String
  ) throws -> StoredSection {
    guard tensor.dtype == dtype, tensor.plainBytes == bytes else {
      throw fail(
        "\(what) is \(tensor.dtype.rawValue) of \(tensor.plainBytes) bytes, expected \(dtype.rawValue) of \(bytes)")
    }
    var section = tensor.sections[0]
    section.kind = kind
    return section
  }
}

extension String {
  /// The first place of `other`, byte by byte.
  func range(ofBytes other: String) -> Range<String.Index>? {
    let bytes = Array(utf8)
    let sought = Array(other.utf8)
    guard !sought.isEmpty, bytes.count >= sought.count else { return nil }
    for start in 0...(bytes.count - sought.count) where bytes[start] == sought[0] {
      if bytes[start..<start + sought.count].elementsEqual(sought) {
        let lower = utf8.index(utf8.startIndex, offsetBy: start)
        return lower..<utf8.index(lower, offsetBy: sought.count)
      }
    }
    return nil
  }
}
