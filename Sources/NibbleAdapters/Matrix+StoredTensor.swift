import NibbleCompute
import NibbleCore
import NibbleFormats
import NibbleQuant

extension Matrix {
  /// The matrix a stored tensor holds, in place.
  ///
  /// - Throws: `.badInput` for types products are not made with
  package init(_ tensor: StoredTensor, of mapped: MappedCheckpoint, isTransposed: Bool) throws {
    let name = tensor.name.text
    func fail(_ reason: String) -> NibbleError {
      NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) \(reason)")
    }
    guard tensor.shape.count == 2 else { throw fail("is no matrix: its shape is \(tensor.shape)") }
    let (rows, columns) = (tensor.shape[0], tensor.shape[1])
    if tensor.encoding == .int8 {
      self = try Self.unpacked(tensor, mapped, rows, columns, isTransposed)
      return
    }
    guard let codec = tensor.encoding.codec else {
      guard let section = tensor.section(.data),
        let matrix = Matrix(
          tensor.dtype, rows: rows, columns: columns, try mapped.bytes(section, name), isTransposed: isTransposed, owner: mapped)
      else { throw fail("of \(tensor.dtype.rawValue) cannot be multiplied with; F32, F16, BF16 and 4-bit codes can") }
      self = matrix
      return
    }
    guard codec.blockSize >= 2, codec.blockSize % 2 == 0, let codes = tensor.section(.codes) else {
      throw fail("has blocks of \(codec.blockSize), which products are not made with")
    }
    let scales: Scales
    if let coded = tensor.section(.scaleCodes), let nested = tensor.section(.nestedScales) {
      scales = .coded(
        try mapped.bytes(coded, name), nested: try mapped.bytes(nested, name), offset: try mapped.offset(of: tensor))
    } else if let plain = tensor.section(.scales) {
      scales = .plain(try mapped.bytes(plain, name))
    } else {
      throw fail("has no scales")
    }
    guard
      let matrix = Matrix(
        codec, rows: rows, columns: columns, codes: try mapped.bytes(codes, name), scales, isTransposed: isTransposed,
        owner: mapped)
    else { throw fail("has sections of the wrong length") }
    self = matrix
  }

  /// Rows of bytes are not multiplied with in place: they become float32, in memory.
  private static func unpacked(
    _ tensor: StoredTensor, _ mapped: MappedCheckpoint, _ rows: Int, _ columns: Int, _ isTransposed: Bool
  ) throws -> Matrix {
    guard let codes = tensor.section(.codes), let scales = tensor.section(.scales),
      let from = try mapped.bytes(codes, tensor.name.text).baseAddress
    else { throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(tensor.name.text)) has no codes") }
    let store = FloatStore(count: rows * columns), factors = FloatStore(count: rows)
    UnsafeMutableRawBufferPointer(factors.values).copyBytes(from: try mapped.bytes(scales, tensor.name.text))
    RowCodec.decode(
      from.assumingMemoryBound(to: Int8.self), from: 0, count: rows * columns, columns: columns, scales: factors.start, .f32,
      UnsafeMutableRawPointer(store.start))
    guard
      let matrix = Matrix(
        .f32, rows: rows, columns: columns, UnsafeRawBufferPointer(store.values), isTransposed: isTransposed, owner: store)
    else { throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(tensor.name.text)) is too large to unpack") }
    return matrix
  }
}
