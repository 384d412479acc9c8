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
      self = try Self(unpacking: 0..<rows, of: tensor, mapped, isTransposed: isTransposed)
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

  /// Rows of an `int8` tensor. Bytes are not multiplied with in place: they become float32, in memory.
  init(unpacking rows: Range<Int>, of tensor: StoredTensor, _ mapped: MappedCheckpoint, isTransposed: Bool) throws {
    let name = tensor.name.text
    guard let codes = tensor.section(.codes), let scales = tensor.section(.scales), let columns = tensor.shape.last,
      let from = try mapped.bytes(codes, name).baseAddress
    else { throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) has no codes") }
    let store = FloatStore(count: rows.count * columns), factors = FloatStore(count: tensor.shape[0])
    UnsafeMutableRawBufferPointer(factors.values).copyBytes(from: try mapped.bytes(scales, name))
    let start = rows.lowerBound * columns
    RowCodec.decode(
      (from + start).assumingMemoryBound(to: Int8.self), from: start, count: store.count, columns: columns,
      scales: factors.start, .f32, UnsafeMutableRawPointer(store.start))
    guard
      let matrix = Matrix(
        .f32, rows: rows.count, columns: columns, UnsafeRawBufferPointer(store.values), isTransposed: isTransposed, owner: store)
    else { throw NibbleError.badInput("\(mapped.checkpoint.path): tensor \(quoted(name)) is too large to unpack") }
    self = matrix
  }
}
